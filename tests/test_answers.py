from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from edge_vit.answers import Answer, softmax, top_answers
from edge_vit.errors import SpecError

logit = st.floats(-1e4, 1e4, width=32)


@given(st.lists(logit, min_size=1, max_size=20))
def test_softmax_is_scipys(row):
    np.testing.assert_allclose(softmax(np.array(row)), scipy.special.softmax(row), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softmax_neither_overflows_nor_loses_a_row(dtype):
    scores = softmax(np.array([[6e4, 6e4, -6e4], [-6e4, -6e4, -6e4]], dtype))
    np.testing.assert_allclose(scores, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_best_answers_first_with_their_labels():
    answers = top_answers(np.log([0.1, 0.7, 0.2]), ("ant", "bee", "cat"), top=2)
    assert [(a.index, a.label) for a in answers] == [(1, "bee"), (2, "cat")]
    assert [a.score for a in answers] == pytest.approx([0.7, 0.2])


def test_a_class_without_a_label_is_called_by_its_index():
    assert top_answers(np.array([0.0, 1000.0]), top=1) == (Answer(1, "1", 1.0),)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_order_is_by_logit_then_by_index(row, top):
    expected = sorted(range(len(row)), key=lambda index: (-row[index], index))[:top]
    assert [a.index for a in top_answers(np.array(row, np.float32), (), top)] == expected


def test_scores_that_underflow_keep_the_order_of_their_logits():
    answers = top_answers(np.array([0, -2000, -1000], np.float32), top=3)
    assert [answer.index for answer in answers] == [0, 2, 1]


@pytest.mark.parametrize("top", [0, -3])
def test_refuses_no_answers(top):
    with pytest.raises(SpecError, match=f"top: got {top}, expected at least 1 answer"):
        top_answers(np.zeros(3), (), top)
