from __future__ import annotations

import numpy as np
import pytest

from edge_vit.tasks.numerics import relative_rms


def test_the_error_is_one_of_the_spread_within_an_image():
    expected = np.array([[101.0, 99.0], [201.0, 199.0]], np.float32)
    assert relative_rms(expected, expected + np.float32(0.5), over_images=False) == pytest.approx(
        0.5
    )
    assert relative_rms(expected, expected, over_images=False) == 0
    assert relative_rms(np.zeros((1, 1)), np.ones((1, 1)), over_images=False) == 1


def test_the_error_of_scores_is_one_of_their_spread_over_images():
    expected = np.array([[101.0], [99.0]], np.float32)
    off = expected + np.float32(0.5)
    assert relative_rms(expected, off, over_images=True) == pytest.approx(0.5)
    assert relative_rms(expected[:1], off[:1], over_images=True) == pytest.approx(0.5 / 101)
    two = np.concatenate([expected * 1000, expected], axis=1)  # the wide one hides nothing
    assert relative_rms(two, two + np.array([0, 1]), over_images=True) == pytest.approx(1)
