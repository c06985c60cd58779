"""Rescaled weights of the same function quantize as well as the weights they came from."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_vits
from hypothesis import given, settings
from hypothesis import strategies as st
from seeded import Seeded, random_images, run_onnx, seeded_small, sqnr_db

from edge_vit.graph.sites import find_blocks
from edge_vit.lowering.qdq import write_qdq
from edge_vit.lowering.smoothing import find_smoothing_targets, smooth
from edge_vit.spec.table import RECIPES

pytestmark = pytest.mark.uncounted

SEEN, IMAGES = random_images(24), random_images(32, seed=11)
MAX_LOSS = 0.5
"""In dB."""


def rescale(vit: Seeded, strengths: list[float], num_channels: int, seed: int) -> Seeded:
    """Scale up channels of every LayerNorm and of the values; the next layer undoes it."""
    copy, random = ir.from_proto(vit.model), np.random.default_rng(seed)
    for block in find_blocks(copy.graph):
        for target in find_smoothing_targets(block):
            divisors = np.ones(target.width, np.float32)
            chosen = random.choice(len(divisors), num_channels, replace=False)
            divisors[chosen] = 1 / random.choice(strengths, num_channels)
            smooth(copy.graph, target, divisors)
    return Seeded(ir.to_proto(copy), vit.spec)


def quality(vit: Seeded, recipe: str, seen=SEEN, images=IMAGES) -> float:
    quantized: onnx.ModelProto = write_qdq(vit.model, vit.calibrate(seen, RECIPES[recipe]))
    return sqnr_db(run_onnx(vit.model, images), run_onnx(quantized, images))


@pytest.fixture(scope="module")
def plain(vit) -> dict[str, float]:
    return {name: quality(vit, name) for name in ("minmax", "fast", "balanced")}


@settings(max_examples=12, deadline=None)
@given(
    strengths=st.lists(st.sampled_from([1 / 100, 1 / 10, 3, 10, 30, 100]), min_size=1, max_size=3),
    num_channels=st.integers(1, 32),
    seed=st.integers(0, 1000),
)
def test_any_rescaling_costs_next_to_nothing(vit, plain, strengths, num_channels, seed):
    rescaled = rescale(vit, strengths, num_channels, seed)
    assert quality(rescaled, "fast") > plain["fast"] - MAX_LOSS


@pytest.mark.parametrize("strengths", [[10], [100], [1 / 100, 10, 100]], ids=str)
def test_the_default_stays_ahead_of_simpler_recipes_on_rescaled_weights(vit, plain, strengths):
    # Its search takes other turns by rounding alone: a dB or so, with six images to judge.
    rescaled = rescale(vit, strengths, 2, seed=0)
    assert quality(rescaled, "balanced") > max(plain["fast"], plain["minmax"]) + MAX_LOSS


def test_without_folds_it_costs_the_model(vit, plain):
    assert quality(rescale(vit, [100], 2, seed=0), "minmax") < plain["minmax"] - 10


SIDE = small_vits.SIZE
SMALL_SEEN, SMALL_IMAGES = random_images(24, size=SIDE), random_images(32, seed=11, size=SIDE)


@functools.cache
def small_quality(architecture: str, recipe: str) -> float:
    return quality(seeded_small(architecture), recipe, SMALL_SEEN, SMALL_IMAGES)


@pytest.mark.parametrize("architecture", small_vits.ARCHITECTURES)
@settings(max_examples=2, deadline=None)
@given(
    strengths=st.lists(st.sampled_from([1 / 100, 3, 30, 100]), min_size=1, max_size=3),
    num_channels=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_neither_does_it_in_other_architectures(architecture, strengths, num_channels, seed):
    rescaled = rescale(seeded_small(architecture), strengths, num_channels, seed)
    exact = run_onnx(seeded_small(architecture).model, SMALL_IMAGES)
    off = np.abs(run_onnx(rescaled.model, SMALL_IMAGES) - exact).max()
    assert off < 1e-4 * np.abs(exact).max()
    found = quality(rescaled, "fast", SMALL_SEEN, SMALL_IMAGES)
    assert found > small_quality(architecture, "fast") - MAX_LOSS


@pytest.mark.parametrize("architecture", small_vits.ARCHITECTURES)
def test_without_folds_it_costs_them_the_model(architecture):
    rescaled = rescale(seeded_small(architecture), [100], 2, seed=0)
    found = quality(rescaled, "minmax", SMALL_SEEN, SMALL_IMAGES)
    assert found < small_quality(architecture, "minmax") - 10
