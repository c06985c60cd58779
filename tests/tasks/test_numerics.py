from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats

from edge_vit.tasks import features, numerics
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


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    reference = random.normal(size=(40, 17)).astype(np.float32)
    return reference, (reference + 0.3 * random.normal(size=(40, 17))).astype(np.float32)


def test_cosine_is_that_of_each_pair_of_rows(rows):
    reference, candidate = rows
    expected = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(reference.astype(float), candidate.astype(float), strict=True)
    ]
    np.testing.assert_allclose(numerics.cosine(reference, candidate), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1, 2], [2, 4], 1), ([1, 0], [-3, 0], -1), ([0, 0], [0, 0], 1), ([0, 0], [1, 0], 0)],
    ids=["parallel", "opposite", "both zero", "one zero"],
)
def test_cosine_of_special_rows(a, b, expected):
    cosine = numerics.cosine(np.array([a], np.float32), np.array([b], np.float32))
    assert cosine == pytest.approx([expected], abs=1e-15)


def test_kl_equals_scipys(rows):
    reference, candidate = (10 * array.astype(np.float64) for array in rows)
    p, q = scipy.special.softmax(reference, axis=1), scipy.special.softmax(candidate, axis=1)
    expected = scipy.stats.entropy(p, q, axis=1)
    np.testing.assert_allclose(numerics.softmax_kl(reference, candidate), expected, rtol=1e-9)


def test_kl_stands_logits_whose_exponential_overflows():
    kl = numerics.softmax_kl(np.array([[2000.0, 0.0]]), np.array([[0.0, 2000.0]]))
    assert kl == pytest.approx([2000])


def test_kl_of_equal_rows_is_zero_and_of_almost_equal_ones_next_to_it(rows):
    reference, _ = rows
    assert (numerics.softmax_kl(reference, reference) == 0).all()
    nearly = numerics.softmax_kl(reference, np.nextafter(reference, np.float32(9)))
    np.testing.assert_allclose(nearly, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("label", "k", "expected"),
    [(2, 1, True), (0, 1, False), (0, 2, True), (3, 2, False), (3, 3, True), (1, 3, False)],
)
def test_top_k_counts_equal_values_in_order(label, k, expected):
    logits = np.array([[5.0, 1.0, 9.0, 5.0]])
    assert numerics.in_top_k(logits, np.array([label]), k).tolist() == [expected]


def test_top_1_correct_is_the_same_as_argmax(rows):
    logits = np.round(rows[0])  # with ties
    labels = np.arange(len(logits)) % logits.shape[1]
    expected = logits.argmax(axis=1) == labels
    assert expected.any()
    assert (numerics.in_top_k(logits, labels, 1) == expected).all()


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_nearest_neighbours_equal_brute_force_in_any_block(rows, block_size):
    reference, candidate = rows
    similarity = scipy.spatial.distance.cdist(candidate, reference, "cosine")
    np.fill_diagonal(similarity, np.inf)
    found = features.nearest_neighbours(candidate, reference, block_size=block_size)
    assert (found == similarity.argmin(axis=1)).all()
    assert (found != features.nearest_neighbours(reference, reference)).any()
