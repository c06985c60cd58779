"""Samples of several inputs, and the arrays that sessions are fed of them."""

from __future__ import annotations

import pytest

from edge_vit.spec import TensorSpec
from edge_vit.spec.samples import feeds_of, noise_for

INPUTS = (
    TensorSpec("latents", "float32", ("batch", 1, 2, 3)),
    TensorSpec("timesteps", "float32", ("batch",)),
    TensorSpec("labels", "int64", ("batch",)),
)


@pytest.mark.parametrize("count", [1, 3])
def test_arrays_that_are_fed_have_strides_of_their_own(count):
    feeds = feeds_of(INPUTS, noise_for(INPUTS, count))
    assert {name: array.shape for name, array in feeds.items()} == {
        "latents": (count, 1, 2, 3),
        "timesteps": (count,),
        "labels": (count,),
    }
    # A sample is 36 bytes long, no multiple of eight: torch refuses such strides, of one row too
    assert feeds["labels"].strides == (8,)
    assert all(array.flags.aligned for array in feeds.values())
