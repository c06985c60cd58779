"""Statistics add up exactly, agree with numpy, and stay small."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_vit.calibration.stats import NUM_BINS, ActivationStats, bin_edges

BIN_WIDTH = 1 / 32
"""Of the value at the bin's lower edge: five bits of mantissa tell the bins of an octave apart."""

activations = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.just(3)),
    elements=st.floats(-(2.0**16), 2.0**16, width=32, allow_subnormal=False),
)


def same(left: ActivationStats, right: ActivationStats) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ActivationStats.__dataclass_fields__
    )


def normal(rows: int = 500, channels: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, channels), dtype=np.float32)


@given(activations, activations, activations)
def test_merge_is_associative_to_the_last_bit(a, b, c):
    a, b, c = map(ActivationStats.of, (a, b, c))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))


@settings(max_examples=50)
@given(st.lists(activations, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_does_not_show_to_the_last_bit(parts, random):
    shuffled = random.sample(parts, len(parts))
    merged = [
        functools.reduce(ActivationStats.merge, map(ActivationStats.of, order))
        for order in (parts, shuffled)
    ]
    assert same(*merged)
    assert merged[0].crest == merged[1].crest


@given(st.lists(activations, min_size=1, max_size=6))
def test_merged_parts_are_the_whole(parts):
    merged = functools.reduce(ActivationStats.merge, map(ActivationStats.of, parts))
    whole = ActivationStats.of(np.concatenate(parts))
    assert merged.num_rows == whole.num_rows
    for name in ("channel_max", "channel_min", "histogram"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))
    assert merged.crest == pytest.approx(whole.crest, rel=1e-5)


def test_merge_leaves_both_as_they_were():
    parts = [normal(seed=seed) for seed in (1, 2)]
    before = [ActivationStats.of(part) for part in parts]
    before[0].merge(before[1])
    assert all(same(stats, ActivationStats.of(p)) for stats, p in zip(before, parts, strict=True))


def test_per_channel_numbers_are_numpys():
    x = normal(seed=3) * np.arange(1, 9, dtype=np.float32) - 2
    stats = ActivationStats.of(x)
    assert stats.num_rows == 500
    assert np.array_equal(stats.channel_max, x.max(axis=0))
    assert np.array_equal(stats.channel_min, x.min(axis=0))
    assert np.array_equal(stats.channel_amax, np.abs(x).max(axis=0))
    assert stats.amax == np.abs(x).max()
    rms = np.sqrt(np.square(x, dtype=np.float64).mean())
    assert stats.crest == pytest.approx(np.abs(x).max() / rms, rel=1e-5)


def test_leading_axes_are_rows():
    x = normal(24, 8)
    assert same(ActivationStats.of(x), ActivationStats.of(x.reshape(2, 3, 4, 8)))
    assert same(ActivationStats.of(x), ActivationStats.of(np.asfortranarray(x)))


def test_leaves_the_activation_as_it_was():
    x = normal()
    before = x.copy()
    ActivationStats.of(x)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("percent", [50.5, 90, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 3000.0])
def test_percentile_is_numpys_up_to_a_bin(percent, scale):
    x = normal(4000) * np.float32(scale)
    exact = np.percentile(np.abs(x), percent, method="inverted_cdf")
    found = ActivationStats.of(x).percentile(percent)
    assert exact <= found <= exact * (1 + BIN_WIDTH)


def test_percentile_100_is_amax():
    stats = ActivationStats.of(normal())
    assert stats.percentile(100) == stats.amax


def test_percentile_leaves_an_outlier_out():
    x = np.ones((1000, 4), np.float32)
    x[0, 0] = 500
    stats = ActivationStats.of(x)
    assert stats.amax == 500
    assert 1 <= stats.percentile(99.9) <= 1 + BIN_WIDTH


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_crest_is_amax_over_rms(scale):
    x = normal(4000) * np.float32(scale)
    exact = np.abs(x).max() / np.sqrt(np.mean(x.astype(np.float64) ** 2))
    assert ActivationStats.of(x).crest == pytest.approx(exact, rel=0.02)


CONSTANTS = {"one": 1.0, "top of a bin": 1.031, "negative": -2.5, "tiny": 1e-38}


@pytest.mark.parametrize("value", CONSTANTS.values(), ids=CONSTANTS)
def test_crest_of_a_constant_is_one(value):
    crest = ActivationStats.of(np.full((5, 3), value, np.float32)).crest
    assert 1.0 <= crest <= 1.02


def test_all_zeros():
    stats = ActivationStats.of(np.zeros((5, 3), np.float32))
    assert (stats.amax, stats.crest, stats.percentile(99)) == (0.0, 0.0, 0.0)
    assert stats.is_finite


def test_negative_zeros_are_zeros():
    assert ActivationStats.of(np.full((2, 2), -0.0, np.float32)).histogram[0] == 4


def test_negative_numbers_alone():
    stats = ActivationStats.of(-np.arange(1, 13, dtype=np.float32).reshape(4, 3))
    assert stats.amax == 12
    assert stats.channel_max.tolist() == [-1, -2, -3]
    assert stats.channel_amax.tolist() == [10, 11, 12]
    assert stats.percentile(100) == 12


def test_one_row():
    stats = ActivationStats.of(np.array([[3.0, -4.0]], np.float32))
    assert (stats.num_rows, stats.amax) == (1, 4.0)
    assert stats.crest == pytest.approx(4 / math.sqrt(12.5), rel=0.02)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf], ids=str)
def test_one_element_that_is_no_number_shows_and_stays(value):
    x = normal(5, 3)
    x[2, 1] = value
    broken = ActivationStats.of(x)
    assert not broken.is_finite
    assert not broken.merge(ActivationStats.of(normal(5, 3))).is_finite
    assert ActivationStats.of(normal(5, 3)).is_finite


def test_opposite_infinities_show():
    x = np.array([[np.inf], [-np.inf]], np.float32)
    assert not ActivationStats.of(x).is_finite


def test_largest_float32_is_a_number():
    stats = ActivationStats.of(np.full((2, 2), np.finfo(np.float32).max))
    assert stats.is_finite
    assert stats.amax == np.finfo(np.float32).max
    assert stats.percentile(99) == stats.amax


def test_memory_does_not_depend_on_the_rows():
    def num_bytes(stats):
        return sum(
            np.asarray(getattr(stats, name)).nbytes for name in ActivationStats.__dataclass_fields__
        )

    few, many = ActivationStats.of(normal(1)), ActivationStats.of(normal(20_000))
    assert few.histogram.shape == many.histogram.shape == (NUM_BINS,)
    assert num_bytes(few) == num_bytes(many) == num_bytes(few.merge(many)) < 70_000


@given(st.floats(2.0**-100, 2.0**100, width=32))
def test_a_value_lies_between_the_edges_of_its_bin(value):
    (index,) = np.flatnonzero(ActivationStats.of(np.array([[value]], np.float32)).histogram)
    low, high = bin_edges()[index : index + 2]
    assert low <= value < high
    assert high / low <= 1 + BIN_WIDTH
