from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from decoding import divergence, predict
from decoding import same as same_prediction
from hypothesis import given
from hypothesis import strategies as st

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.tasks import numerics, task_of
from edge_vit.tasks.base import named
from edge_vit.tasks.prediction import ClassScore

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=4, size=(6, 5)).astype(np.float32)
OTHERS = (LOGITS + RANDOM.normal(scale=0.5, size=LOGITS.shape)).astype(np.float32)


def spec_of(task="classification", activation=None, size=5, labels=(), threshold=None) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        source="edgevit:tiny",
        task=task,
        labels=labels,
        inputs=(image_input((32, 32)),),
        outputs=(task_output(task, size, activation=activation),),
        preprocess=PreprocessSpec((32, 32)),
        activation=activation,
        threshold=threshold,
    )


@pytest.mark.parametrize(
    ("task", "activation", "name"),
    [
        ("classification", "softmax", "logits"),
        ("multi_label", "sigmoid", "logits"),
        ("regression", "none", "scores"),
        ("features", "none", "features"),
    ],
)
def test_a_task_has_its_activation_and_names_its_output(task, activation, name):
    spec = spec_of(task)
    assert spec.activation == activation
    assert spec.outputs[0].name == name


def test_an_activation_of_a_task_without_probabilities_is_refused():
    with pytest.raises(SpecError, match="activation of tiny: got softmax, expected none"):
        spec_of("regression", "softmax")


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_a_threshold_that_no_probability_can_cross_is_refused(threshold):
    with pytest.raises(SpecError, match="threshold of tiny"):
        spec_of("multi_label", threshold=threshold)


@pytest.mark.parametrize(
    ("raw", "activation"),
    [
        (LOGITS, "softmax"),
        (scipy.special.log_softmax(LOGITS, axis=1), "softmax"),
        (scipy.special.softmax(LOGITS, axis=1), "none"),
    ],
    ids=["logits", "log_probabilities", "probabilities"],
)
def test_every_kind_of_class_output_gives_the_same_probabilities(raw, activation):
    spec = spec_of(activation=activation)
    wanted = scipy.special.softmax(LOGITS.astype(np.float64), axis=1)
    np.testing.assert_allclose(
        task_of(spec).probabilities(spec, named(spec, raw)), wanted, atol=1e-6
    )
    first = predict(spec, raw[0]).classes[0]
    assert first.index == LOGITS[0].argmax()
    assert first.score == pytest.approx(wanted[0].max(), abs=1e-6)


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_labels_are_on_from_the_threshold(activation):
    spec = spec_of("multi_label", activation, labels=("a", "b", "c", "d", "e"), threshold=0.7)
    shares = np.array([0.1, 0.9, 0.69, 0.71, 0.8])
    raw = shares if activation == "none" else scipy.special.logit(shares)
    found = predict(spec, raw, top=2)
    assert [answer.label for answer in found.classes] == ["b", "e"]
    assert [answer.label for answer in found.labels_on] == ["b", "e", "d"]
    assert found.classes[0].score == pytest.approx(0.9)


def test_scores_keep_their_value_and_are_never_a_class():
    found = predict(spec_of("regression", size=1), np.array([37.5]), image="a.png")
    assert found.image == "a.png"
    assert found.names == ()
    assert [(s.label, s.value) for s in found.scores] == [("0", 37.5)]


def test_sigmoid_neither_overflows_nor_warns():
    with np.errstate(all="raise"):
        found = numerics.sigmoid(np.array([-700.0, -1.0, 0.0, 1.0, 700.0]))
    np.testing.assert_allclose(found, scipy.special.expit([-700, -1, 0, 1, 700]), rtol=1e-12)


def test_logarithms_of_certain_predictions_are_finite():
    far = np.array([[2000.0, 0.0, -2000.0]])
    np.testing.assert_allclose(numerics.log_softmax(far), [[0.0, -2000.0, -4000.0]])
    np.testing.assert_allclose(numerics.log_sigmoid(far), [[0.0, -np.log(2), -2000.0]], atol=1e-12)


def test_kl_of_classes_does_not_depend_on_how_probabilities_are_written():
    p, q = (scipy.special.softmax(x.astype(np.float64), axis=1) for x in (LOGITS, OTHERS))
    wanted = scipy.stats.entropy(p, q, axis=1)
    for activation, one, other in (("softmax", LOGITS, OTHERS), ("none", p, q)):
        found = divergence(spec_of(activation=activation), one, other)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_kl_of_labels_is_the_sum_over_independent_ones():
    p, q = scipy.special.expit(LOGITS.astype(np.float64)), scipy.special.expit(OTHERS * 1.0)
    both = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    for activation, one, other in (("sigmoid", LOGITS, OTHERS), ("none", p, q)):
        spec = spec_of("multi_label", activation)
        np.testing.assert_allclose(divergence(spec, one, other), both.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression", "features"])
def test_equal_outputs_are_the_same_prediction(task):
    spec = spec_of(task)
    assert same_prediction(spec, LOGITS, LOGITS).all()
    assert divergence(spec, LOGITS, LOGITS) == pytest.approx(np.zeros(6))


def test_one_label_of_many_makes_another_prediction():
    one = np.array([[-2.0, 3.0, 1.0], [-2.0, 3.0, 1.0]])
    other = np.array([[-3.0, 1.0, 9.0], [-2.0, 3.0, -0.1]])
    same = same_prediction(spec_of("multi_label", size=3), one, other)
    assert same.tolist() == [True, False]


def test_scores_agree_on_the_same_side_of_the_threshold():
    spec = spec_of("regression", size=1, threshold=30.0)
    same = same_prediction(spec, np.array([[31.0], [31.0]]), np.array([[90.0], [29.0]]))
    assert same.tolist() == [True, False]
    apart = divergence(spec, np.array([[31.0], [31.0]]), np.array([[90.0], [29.0]]))
    assert apart.tolist() == [59.0, 2.0]


logit = st.floats(-1e4, 1e4, width=32)


@given(st.lists(logit, min_size=1, max_size=20))
def test_softmax_is_scipys(row):
    found = numerics.softmax(np.array(row))
    np.testing.assert_allclose(found, scipy.special.softmax(row), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softmax_neither_overflows_nor_loses_a_row(dtype):
    scores = numerics.softmax(np.array([[6e4, 6e4, -6e4], [-6e4, -6e4, -6e4]], dtype))
    np.testing.assert_allclose(scores, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_best_answers_first_with_their_labels():
    spec = spec_of(size=3, labels=("ant", "bee", "cat"))
    answers = predict(spec, np.log([0.1, 0.7, 0.2]), top=2).classes
    assert [(a.index, a.label) for a in answers] == [(1, "bee"), (2, "cat")]
    assert [a.score for a in answers] == pytest.approx([0.7, 0.2])


def test_a_class_without_a_label_is_called_by_its_index():
    answers = predict(spec_of(size=2), np.array([0.0, 1000.0]), top=1).classes
    assert answers == (ClassScore(1, "1", 1.0),)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_order_is_by_logit_then_by_index(row, top):
    expected = sorted(range(len(row)), key=lambda index: (-row[index], index))[:top]
    answers = predict(spec_of(size=len(row)), np.array(row, np.float32), top).classes
    assert [a.index for a in answers] == expected


def test_scores_that_underflow_keep_the_order_of_their_logits():
    answers = predict(spec_of(size=3), np.array([0, -2000, -1000], np.float32)).classes
    assert [answer.index for answer in answers] == [0, 2, 1]


@pytest.mark.parametrize("top", [0, -3])
def test_refuses_no_answers(top):
    with pytest.raises(SpecError, match=f"top: got {top}, expected at least 1 entry"):
        predict(spec_of(), np.zeros(5), top)


def test_a_key_tells_predictions_apart():
    tags, score = spec_of("multi_label", size=2), spec_of("regression", size=1)
    assert predict(spec_of(size=2), np.array([1.0, 2.0])).key == 1
    assert predict(tags, np.array([-1.0, 2.0])).key == {1}
    assert predict(tags, np.array([-1.0, -2.0])).key == frozenset()
    assert predict(score, np.array([0.5])).key == (True,)
    assert predict(spec_of("features"), np.zeros(5)).key is None


def test_averages_are_of_probabilities_and_of_scores():
    tags = spec_of("multi_label", size=2, threshold=0.4)
    rows = [
        task_of(tags).averageable(tags, named(tags, np.array([row])))[0]
        for row in ([9.0, -9.0], [-9.0, 9.0])
    ]
    found = task_of(tags).from_shares(tags, np.mean(rows, axis=0), None, "", 5)
    assert [answer.score for answer in found.labels_on] == pytest.approx([0.5, 0.5])
    one = spec_of("regression", size=1)
    score = task_of(one).from_shares(one, np.array([3.5]), None, "", 5)
    assert score.scores[0].value == 3.5


def test_classes_by_the_name_that_they_had_before():
    found = predict(spec_of(size=3), np.array([0, 2, 1], np.float32))
    with pytest.warns(DeprecationWarning, match="`answers` is called `classes`"):
        assert found.answers == found.classes
