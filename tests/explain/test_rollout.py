"""Rollout and the likeness of maps, against small cases done by hand."""

import numpy as np
import pytest

from edge_vit.explain.explain import correlation, map_of, overlap, roll_out


def softmax(scores):
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def test_one_block_passes_on_half_and_mixes_half():
    attention = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])  # two heads
    assert roll_out([attention]) == pytest.approx(np.array([[0.75, 0.25], [0.25, 0.75]]))


def test_blocks_multiply_the_last_one_first():
    random = np.random.default_rng(0)
    first, second = (softmax(random.normal(size=(3, 5, 5))) for _ in range(2))
    mixed = [(a.mean(axis=0) + np.eye(5)) / 2 for a in (first, second)]
    assert roll_out([first, second]) == pytest.approx(mixed[1] @ mixed[0])


def test_what_goes_in_comes_out_whatever_the_depth():
    random = np.random.default_rng(1)
    rolled = roll_out([softmax(random.normal(size=(2, 7, 7)).astype(np.float32))] * 24)
    assert rolled.sum(axis=1) == pytest.approx(np.ones(7))
    assert (rolled >= 0).all()


def test_identity_looks_at_itself():
    assert roll_out([np.eye(4)[None]] * 3) == pytest.approx(np.eye(4))


def test_a_map_has_the_patches_alone_and_sums_to_one():
    rolled = np.array([[0.4, 0.1, 0.2, 0.2, 0.1]] + [[0.2] * 5] * 4)
    weights = np.array([1.0, 0, 0, 0, 0])  # the class token
    assert map_of(rolled, weights, 2, 2) == pytest.approx(np.array([[0.1, 0.2], [0.2, 0.1]]) / 0.6)


def test_a_class_token_that_looks_at_no_patch_gives_a_flat_map():
    assert map_of(np.eye(5), np.array([1.0, 0, 0, 0, 0]), 2, 2) == pytest.approx(
        np.full((2, 2), 0.25)
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]], 1.0),
        ([[1, 2], [3, 4]], [[2, 4], [6, 8]], 1.0),
        ([[1, 2], [3, 4]], [[4, 3], [2, 1]], -1.0),
        ([[1, 1], [1, 1]], [[1, 1], [1, 1]], 1.0),
        ([[1, 1], [1, 1]], [[1, 2], [3, 4]], 0.0),
    ],
)
def test_correlation(first, second, expected):
    assert correlation(np.array(first, float), np.array(second, float)) == pytest.approx(expected)


def test_overlap_counts_the_brightest_tenth():
    first = np.arange(100.0).reshape(10, 10)
    assert overlap(first, first) == 1
    assert overlap(first, -first) == 0
    shifted = np.roll(first, 5)
    assert overlap(first, shifted) == 0.5
