"""Mean average precision of labels that are on or off by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from edge_vit.measure.measured import collect, sum_up
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.tasks import task_named
from edge_vit.tasks.detection.truth import Objects
from edge_vit.tasks.label_sets import MAP, MAP_DROP, LabelSet, average_precision, summarize

TASK = task_named("multi_label")
SPEC = ModelSpec(
    "x",
    "timm:x",
    TASK.name,
    ("cat", "dog", "cow"),
    (image_input((8, 8)),),
    (task_output(TASK.name, 3),),
    PreprocessSpec((8, 8)),
)


def made(count=40, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    truth = random.random((count, 3)) < (0.3, 0.5, 0.1)
    return truth, (truth * 2 + noise * random.standard_normal((count, 3))).astype(np.float32)


def sets_of(truth):
    return [LabelSet(frozenset(np.flatnonzero(row).tolist())) for row in truth]


def measured(truth, candidate, reference):
    columns = {}
    outputs = [{"logits": each} for each in (reference, candidate)]
    collect(columns, SPEC, *outputs, truth)
    return sum_up(TASK.name, columns)


@pytest.mark.parametrize("digits", [6, 0], ids=["untied", "tied"])
def test_average_precision_is_that_of_scikit_learn(digits):
    truth, scores = made()
    scores = scores.round(digits).astype(np.float64)
    repeated = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=3)
    weights = np.concatenate((np.ones((1, 40), np.int64), repeated))
    for label in range(3):
        found = average_precision(scores[:, label], truth[:, label], weights)
        for row, value in zip(weights, found, strict=True):
            images = np.repeat(np.arange(40), row)
            wanted = average_precision_score(truth[images, label], scores[images, label])
            assert value == pytest.approx(wanted, abs=1e-12)


def test_what_is_not_known_does_not_count():
    truth, scores = made()
    flags = truth[:, 0].astype(np.int8)
    flags[:10] = -1
    value = average_precision(scores[:, 0], flags, np.ones((1, 40), np.int64))
    assert value[0] == pytest.approx(average_precision_score(truth[10:, 0], scores[10:, 0]))


def test_a_report_has_both_models_and_what_is_lost():
    truth, reference = made()
    candidate = made(noise=2.0)[1]
    found = measured(sets_of(truth), candidate, reference)
    ours, theirs = (
        np.mean([average_precision_score(truth[:, i], each[:, i]) for i in range(3)])
        for each in (candidate, reference)
    )
    assert found[MAP].value == pytest.approx(ours)
    assert found[MAP].reference == pytest.approx(theirs)
    assert found[MAP].low < ours < found[MAP].high
    assert found[MAP_DROP].value == pytest.approx(theirs - ours)
    assert found[MAP_DROP].low < found[MAP_DROP].value < found[MAP_DROP].high
    same = measured(sets_of(truth), reference, reference)[MAP_DROP]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_images_without_truth_and_labels_that_none_shows_are_left_out():
    truth, scores = made()
    truth[:, 2] = False
    given = [*sets_of(truth)[:30], *[None] * 10]
    wanted = np.mean([average_precision_score(truth[:30, i], scores[:30, i]) for i in (0, 1)])
    assert measured(given, scores, scores)[MAP].value == pytest.approx(wanted)
    assert MAP not in measured([None] * 40, scores, scores)
    assert MAP not in measured(sets_of(np.zeros_like(truth)), scores, scores)
    assert summarize([], []) == {}


def test_annotated_objects_are_labels_that_are_on():
    truth, scores = made()
    empty = np.zeros((0, 4))
    objects = [
        Objects((8, 8), empty, np.flatnonzero(row), np.zeros(0), np.zeros(0, bool)) for row in truth
    ]
    assert measured(objects, scores, scores) == measured(sets_of(truth), scores, scores)
