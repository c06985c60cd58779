"""Intervals over images: which images both models are held against."""

from __future__ import annotations

import numpy as np

from edge_vit.tasks.bootstrap import bootstrap


def mean(records, weights):
    return {"mean": weights @ np.array(records) / weights.sum(axis=1)}


def test_a_loss_is_of_the_same_images():
    found = bootstrap([1.0, 2.0, None], [3.0, 4.0, None], mean, ("mean", "lost"))
    assert (found["mean"].value, found["mean"].reference, found["lost"].value) == (1.5, 3.5, 2.0)
    found = bootstrap([1.0, None, 2.0], [3.0, 4.0, None], mean, ("mean", "lost"))
    assert (found["mean"].value, found["mean"].reference) == (1.5, None)
    assert "lost" not in found
