"""Scales are float16 numbers, never too small, and INT8 levels stay within half a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layers import weight_scales

from edge_vit.lowering.qdq import QMAX, quantize_weight, round_scale
from edge_vit.spec.table import MIN_SCALE

HALF_ULP = 2.0**-11  # relative, of a normal float16
weights = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    elements=st.floats(-1000, 1000, width=32),
)


def is_half(scale) -> bool:
    return bool(np.all(np.float64(np.float16(scale)) == scale))


def test_smallest_scale_is_a_normal_float16():
    assert is_half(MIN_SCALE)
    assert np.finfo(np.float16).smallest_normal <= MIN_SCALE < 1e-4


@given(st.floats(0, 60_000))
def test_scale_is_a_float16_near_the_wanted_one(wanted):
    scale = float(round_scale(np.float64(wanted)))
    assert is_half(scale)
    assert scale >= MIN_SCALE
    assert abs(scale - max(wanted, MIN_SCALE)) <= HALF_ULP * max(wanted, MIN_SCALE)


def test_scale_per_output_channel():
    weight = np.array([[1.27, 0.0], [-0.5, -12.7]], np.float32)
    assert weight_scales(weight) == pytest.approx([0.01, 0.1], rel=HALF_ULP)


def test_dead_and_constant_channels():
    weight = np.zeros((4, 3), np.float32)
    weight[:, 1], weight[:, 2] = 0.254, 1e-9
    scales = weight_scales(weight)
    assert scales.tolist() == [MIN_SCALE, pytest.approx(0.002, rel=HALF_ULP), MIN_SCALE]
    assert quantize_weight(weight, scales).tolist() == [[0, 127, 0]] * 4


@given(weights)
def test_levels_are_symmetric_and_within_half_a_step(weight):
    scales = weight_scales(weight)
    levels = quantize_weight(weight, scales)
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max() <= QMAX == 127
    # A scale that was rounded down clips the largest level: by 127 half ulps of a step.
    error = np.abs(levels * scales - weight)
    assert (error <= scales * (0.5 + 1e-6)).all()


@given(weights)
def test_a_negated_weight_has_negated_levels(weight):
    scales = weight_scales(weight)
    assert np.array_equal(weight_scales(-weight), scales)
    assert np.array_equal(quantize_weight(-weight, scales), -quantize_weight(weight, scales))


def test_levels_round_half_to_even():
    weight = np.array([[0.5, 1.5, -2.5, 126.5, 200.0, -200.0]], np.float32)
    assert quantize_weight(weight, np.ones(6)).tolist() == [[0, 2, -2, 126, 127, -127]]
