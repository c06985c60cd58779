"""Weights rounded so that errors make up for each other."""

from __future__ import annotations

import numpy as np
import pytest
from layers import gram_of, weight_scales

from edge_vit.calibration.gram import Gram
from edge_vit.calibration.rounding import Compensator, choose_reference
from edge_vit.lowering.qdq import quantize_weight

WIDTH, OUTPUTS = 150, 24  # more rows than a block of the sweep, and no multiple of it


def correlated(count, seed):
    """Rows whose channels follow from a few common causes, and lie far from zero."""
    random = np.random.default_rng(0)
    causes, centre = random.normal(size=(12, WIDTH)), random.normal(0, 2, WIDTH)
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.1, (count, WIDTH))
    return (random.normal(size=(count, 12)) @ causes + centre + noise).astype(np.float32)


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(1).normal(0, 0.1, (WIDTH, OUTPUTS)).astype(np.float32)


def output_noise(levels, scales, weight, rows, divisors=1.0):
    """Mean square of the output's error, its mean taken out, as a bias does."""
    rows = rows / divisors
    error = (rows - rows.mean(axis=0)) @ (levels * scales - weight)
    return float(np.square(error).mean())


def test_it_leaves_far_less_than_rounding_to_nearest_on_rows_it_has_not_seen(weight):
    scales, unseen = weight_scales(weight), correlated(500, seed=3)
    compensator = Compensator.of(
        gram_of(correlated(2000, seed=2)), np.ones(WIDTH), is_centered=True
    )
    levels = compensator.round(weight, scales, np.ones(WIDTH))
    assert levels.dtype == np.int8
    assert np.abs(levels).max() <= 127
    nearest = output_noise(quantize_weight(weight, scales), scales, weight, unseen)
    assert output_noise(levels, scales, weight, unseen) < nearest / 4


def test_one_factorization_serves_every_smoothing(weight):
    rows, unseen = correlated(2000, seed=2), correlated(500, seed=3)
    divisors = np.random.default_rng(4).uniform(0.2, 5, WIDTH).astype(np.float32)
    scaled = weight * divisors[:, None]
    scales = weight_scales(scaled)
    shared = Compensator.of(gram_of(rows), np.ones(WIDTH), is_centered=True)
    own = Compensator.of(gram_of(rows / divisors), np.ones(WIDTH), is_centered=True)
    noises = [
        output_noise(levels, scales, scaled, unseen, divisors)
        for levels in (
            shared.round(scaled, scales, divisors),
            own.round(scaled, scales, np.ones(WIDTH)),
        )
    ]
    assert noises[0] == pytest.approx(noises[1], rel=0.5)
    nearest = output_noise(quantize_weight(scaled, scales), scales, scaled, unseen, divisors)
    assert max(noises) < nearest / 4


def test_larger_channels_before_smaller_weights_are_rounded_alike(weight):
    """Smoothing divides by as much more, so that neither order nor damping may change."""
    rows, times = correlated(2000, seed=2), np.ones(WIDTH, np.float32)
    times[[3, 77]] = 100
    scales = weight_scales(weight)
    levels = []
    for factors in (np.ones(WIDTH, np.float32), times):
        gram = gram_of(rows * factors)
        reference = choose_reference(gram, weight / factors[:, None], is_centered=True)
        compensator = Compensator.of(gram, reference, is_centered=True)
        levels.append(compensator.round(weight, scales, factors))
    assert np.mean(levels[0] != levels[1]) < 0.01
    alone = Compensator.of(gram_of(rows * times), np.ones(WIDTH), is_centered=True)
    assert np.mean(levels[0] != alone.round(weight, scales, times)) > 0.1


def test_channels_without_spread_or_weights_have_a_reference(weight):
    rows, weight = correlated(2000, seed=2), weight.copy()
    rows[:, 5], weight[9] = 2, 0
    reference = choose_reference(gram_of(rows), weight, is_centered=True)
    assert reference[[5, 9]] == pytest.approx(1, rel=0.1)
    assert (reference > 0).all() and np.isfinite(reference).all()


def test_sums_of_images_add_up():
    rows = correlated(300, seed=2)
    merged = Gram.empty(WIDTH)
    for part in np.split(rows, 3):
        merged.add(part, np.ones(len(part), np.float32))
    assert merged.num_rows == 300
    expected = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(merged.moments(is_centered=True), expected, atol=1e-3)


def test_a_dead_channel_is_rounded_to_nearest_and_harms_no_other(weight):
    rows = correlated(2000, seed=2)
    rows[:, 7] = 0
    compensator = Compensator.of(gram_of(rows), np.ones(WIDTH), is_centered=False)
    scales = weight_scales(weight)
    levels = compensator.round(weight, scales, np.ones(WIDTH))
    np.testing.assert_array_equal(levels[7], quantize_weight(weight, scales)[7])


@pytest.mark.parametrize("kind", ["few rows", "one image again and again", "all dead"])
def test_images_that_say_too_little_are_no_ground(kind):
    rows = {
        "few rows": correlated(WIDTH, seed=2),
        "one image again and again": np.tile(correlated(40, seed=2), (60, 1)),
        "all dead": np.zeros((2000, WIDTH), np.float32),
    }[kind]
    assert Compensator.of(gram_of(rows), np.ones(WIDTH), is_centered=True) is None


def test_channels_rounded_first_can_be_left_out(weight):
    """What is left is rounded as if they had never been there."""
    rows, left_out = correlated(2000, seed=2), [7, 31, 100]
    bare = weight.copy()
    bare[left_out] = 0
    scales, ones = weight_scales(bare), np.ones(WIDTH)
    every = Compensator.of(gram_of(rows), ones, left_out, is_centered=True)
    levels = every.round(bare, scales, ones)
    assert not levels[left_out].any()
    others = [index for index in range(WIDTH) if index not in left_out]
    gram = gram_of(np.ascontiguousarray(rows[:, others]))
    own = Compensator.of(gram, ones[others], is_centered=True)
    expected = own.round(bare[others], scales, ones[others])
    assert (levels[others] != expected).mean() < 0.02  # damping is of another mean variance
