"""Models with several labels or with numeric scores, from evaluation to the gate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.special
from small_models import make_model

from edge_vit.data.images import ArraySource
from edge_vit.errors import SpecError
from edge_vit.measure.accuracy import evaluate, evaluate_part
from edge_vit.measure.accuracy_report import report_of
from edge_vit.measure.earlier import loss_since
from edge_vit.measure.environment import read_environment
from edge_vit.measure.gates import agreement_can_fail, judge_accuracy, judge_scores
from edge_vit.measure.limits import Limits
from edge_vit.measure.partial import merge_partials
from edge_vit.measure.results import AccuracyReport
from edge_vit.measure.spending import Trust, error_of_look
from edge_vit.measure.statistics import Interval
from edge_vit.report.details import task_grids
from edge_vit.report.grids import accuracy_grid
from edge_vit.report.wording import MISSING
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import run_batch
from edge_vit.tasks.measures import MeasureValue

IMAGES = np.random.default_rng(1).integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)


class Shifted(FakeSession):
    """A fake session whose outputs are moved and stretched."""

    def __init__(self, spec, *args, scale=1.0, shift=0.0, **options):
        super().__init__(spec, *args, **options)
        self._scale, self._shift = scale, shift

    def _run(self, feeds):
        found = super()._run(feeds)
        return {
            name: (self._shift + self._scale * value).astype(np.float32)
            for name, value in found.items()
        }


def evaluated(spec, noise=0.1, images=IMAGES, labels=None, **change) -> AccuracyReport:
    sessions = Shifted(spec, **change), Shifted(spec, "int8", noise=noise, **change)
    (report,) = evaluate(sessions[0], [sessions[1]], spec, ArraySource(images, labels))
    return report


def outputs_of(spec, noise=0.1, **change):
    reference = Shifted(spec, **change)
    candidate = Shifted(spec, "int8", noise=noise, **change)
    return run_batch(reference, IMAGES), run_batch(candidate, IMAGES)


def test_labels_are_compared_one_by_one_and_all_together():
    spec = make_model("multi_label", 4, labels=("ant", "bee", "cat", "dog"))
    report = evaluated(spec)
    on, also = (scipy.special.expit(x.astype(float)) >= 0.5 for x in outputs_of(spec))
    assert report.task == "multi_label"
    assert report.agreement == (on == also).all(axis=1).mean()
    assert report.label_agreement == pytest.approx((on == also).mean())
    assert [(each.label, each.reference_on, each.candidate_on) for each in report.per_label] == [
        (spec.labels[i], on[:, i].sum(), also[:, i].sum()) for i in range(4)
    ]
    assert report.kl_mean > 0
    assert report.most_drop >= 1 - report.agreement


def test_a_class_folder_is_no_truth_for_labels():
    spec = make_model("multi_label", 4)
    assert evaluated(spec, labels=np.zeros(90, int)).num_labelled == 0


def test_other_labels_are_never_a_pass():
    gate = judge_accuracy(evaluated(make_model("multi_label", 4), noise=3.0), 0.5)
    assert gate.outcome != "pass"
    assert "The set of labels differs" in gate.sentence


@pytest.mark.parametrize("shift", [-20, 20])
def test_labels_that_never_change_decide_nothing(shift):
    report = evaluated(make_model("multi_label", 4), noise=0.01, shift=shift)
    assert report.agreement == 1
    gate = judge_accuracy(report, 0.5)
    assert gate.outcome == "undecided"
    assert "Each label is on in all or none of 90 images" in gate.sentence


def test_scores_have_a_numeric_error():
    spec = make_model("regression", 2, labels=("age", "height"))
    report = evaluated(spec, scale=20, shift=40)
    a, b = (x.astype(float) for x in outputs_of(spec, scale=20, shift=40))
    assert report.task == "regression"
    assert report.kl_mean is None
    assert report.most_drop is None
    error = np.abs(a - b)
    for index, score in enumerate(report.scores):
        assert score.label == spec.labels[index]
        assert score.mean_error == pytest.approx(error[:, index].mean())
        assert score.error_deviation == pytest.approx(error[:, index].std(ddof=1))
        assert score.spread == pytest.approx(a[:, index].std(ddof=1))
        assert score.above == (a[:, index] >= 0).sum()
    shown = report.worst[0]
    assert shown.divergence == pytest.approx(error.mean(axis=1).max())
    assert [score.label for score in shown.reference_scores] == ["age", "height"]


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_parts_add_up_to_the_whole(task):
    spec = make_model(task, 3)
    sessions = FakeSession(spec), FakeSession(spec, "int8", noise=0.2)

    def part(index, images):
        source = ArraySource(images)
        (found,) = evaluate_part(sessions[0], sessions[1:], spec, source, part=(index, 2))
        return dataclasses.replace(found, environment=read_environment())

    merged = report_of(merge_partials([part(2, IMAGES[31:]), part(1, IMAGES[:31])]))
    whole = evaluated(spec, noise=0.2)
    names = ("agreement", "per_label", "label_agreement", "scores", "kl_mean", "kl_p99")
    assert [getattr(merged, name) for name in names] == [getattr(whole, name) for name in names]


@pytest.mark.parametrize(
    ("noise", "outcome"), [(0.01, "pass"), (0.2, "fail"), (0.0625, "undecided")]
)
def test_the_error_of_a_score_decides(noise, outcome):
    gate = judge_accuracy(evaluated(make_model("regression", 1), noise=noise), 0.5)
    assert (gate.name, gate.outcome) == ("max-error", outcome), gate.sentence
    assert gate.low <= gate.value <= gate.high
    assert (gate.images_needed is not None) == (outcome == "undecided")


def test_one_bad_score_of_several_is_enough():
    good = evaluated(make_model("regression", 3), noise=0.01)
    bad = dataclasses.replace(good.scores[1], mean_error=0.4, error_deviation=0.1)
    report = dataclasses.replace(good, scores=(good.scores[0], bad, good.scores[2]))
    gate = judge_scores(report)
    assert gate.outcome == "fail"
    assert "The score of 1 differs" in gate.sentence


def test_few_images_do_not_pass_a_score():
    gate = judge_scores(evaluated(make_model("regression", 1), noise=1e-6, images=IMAGES[:12]))
    assert gate.outcome == "undecided"
    assert "about 30 images would decide" in gate.sentence


def test_a_constant_score_decides_nothing():
    report = evaluated(make_model("regression", 1), noise=0, scale=0.0, shift=7.3)
    gate = judge_scores(report)
    assert gate.outcome == "undecided"
    assert "fp32 gives the same value" in gate.sentence


def test_the_side_of_the_threshold_counts_only_where_both_sides_occur():
    spec = make_model("regression", 1)
    assert agreement_can_fail(evaluated(spec))
    assert not agreement_can_fail(evaluated(spec, shift=100.0))
    for shift, is_shown in ((100.0, False), (0.0, True)):
        rows = {row[0]: row[2] for row in accuracy_grid([evaluated(spec, shift=shift)]).rows}
        assert (rows["same answer"] != MISSING) == is_shown
    at_100 = dataclasses.replace(spec, threshold=100.0)
    assert agreement_can_fail(evaluated(at_100, shift=100.0))


def test_a_model_at_the_limit_rarely_passes():
    """The error is exactly the limit; 95 % confidence allows 1 pass in 20."""
    random = np.random.default_rng(5)
    spec = make_model("regression", 1)
    report, passes = evaluated(spec), 0
    for _ in range(400):
        values, error = random.standard_normal(80), 0.05 * random.exponential(size=80)
        score = dataclasses.replace(
            report.scores[0],
            mean_error=error.mean(),
            error_deviation=error.std(ddof=1),
            spread=values.std(ddof=1),
        )
        one = dataclasses.replace(report, num_images=80, scores=(score,))
        passes += judge_scores(one, max_error=5).outcome == "pass"
    assert passes <= 20


def test_a_limit_below_zero_is_refused():
    with pytest.raises(SpecError, match="max_error: got -1, expected 0 percent or more"):
        Limits(max_error=-1)


def test_scores_are_held_against_those_of_an_earlier_report():
    spec = make_model("regression", 1)
    good, worse = evaluated(spec, noise=0.01), evaluated(spec, noise=0.2)
    assert loss_since(good, good) == (0.0, Interval(0.0, 0.0))
    grown, (low, high) = loss_since(worse, good)
    assert 0 < low < grown < high
    assert grown == pytest.approx(
        100 * (worse.scores[0].mean_error - good.scores[0].mean_error) / good.scores[0].spread
    )
    assert loss_since(good, worse)[0] < 0


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_a_report_shows_labels_and_scores(task):
    report = evaluated(make_model(task, 2, labels=("one", "two")), scale=3)
    (grid,) = task_grids(report)
    assert {row[0] for row in grid.rows} == {"one", "two"}
    measures = {row[0] for row in accuracy_grid([report]).rows}
    assert ("error (% of spread)" in measures) == (task == "regression")
    assert ("each label (%)" in measures) == (task == "multi_label")
    assert ("cosine, mean" in measures) == (task == "multi_label")


@pytest.mark.parametrize(
    ("drop", "calibrated_on", "outcome"),
    [
        (MeasureValue(0.001, -0.001, 0.003), 0, "pass"),
        (MeasureValue(0.02, 0.01, 0.03), 0, "fail"),
        (MeasureValue(0.004, 0.001, 0.007), 0, "undecided"),
        (MeasureValue(0.001, -0.001, 0.003), 3, "undecided"),
        (MeasureValue(0.001), 0, "undecided"),
    ],
    ids=["little", "much", "between", "calibrated on", "no interval"],
)
def test_the_gate_of_a_detector_is_the_average_precision_lost(
    make_accuracy, drop, calibrated_on, outcome
):
    measures = {"AP": MeasureValue(0.45, 0.4, 0.5, 0.451), "AP_drop": drop}
    report = make_accuracy(
        task="detection", labelled=0, measures=measures, num_calibrated_on=calibrated_on
    )
    gate = judge_accuracy(report, max_drop=0.5, max_error=5.0)
    assert (gate.name, gate.outcome) == ("max-drop", outcome)
    if drop.low is not None:
        assert gate.sentence.startswith(f"AP lost: {100 * drop.value:.2f} points on 1,000")
    assert "with their truth" in accuracy_grid([report]).note


@pytest.mark.parametrize(("look", "outcome"), [(1, "pass"), (4, "undecided"), (40, "undecided")])
def test_the_interval_of_a_measure_widens_with_the_looks(make_accuracy, look, outcome):
    measures = {"AP_drop": MeasureValue(0.003, 0.001, 0.0045)}
    report = make_accuracy(task="detection", labelled=0, measures=measures)
    trust = Trust(now=1 - error_of_look(look))
    gate = judge_accuracy(report, max_drop=0.5, max_error=5.0, trust=trust)
    assert gate.outcome == outcome
    assert (gate.high > 0.46) == (look > 1)


def test_copies_of_images_do_not_narrow_the_interval_of_a_measure(make_accuracy):
    measures = {"AP_drop": MeasureValue(0.003, 0.002, 0.004)}
    report = make_accuracy(task="detection", labelled=0, measures=measures)
    copied = dataclasses.replace(
        report, evidence=dataclasses.replace(report.deciding, num_images=40)
    )
    alone, gate = (judge_accuracy(each, max_drop=0.5) for each in (report, copied))
    assert (alone.outcome, gate.outcome) == ("pass", "undecided")
    assert gate.high == pytest.approx(0.3 + 0.1 * (1000 / 40) ** 0.5)


def test_measures_are_named_and_counted_in_words_of_their_kind(make_accuracy):
    lost = {"sample_error": MeasureValue(0.0001, 0.0, 0.0003), "worst_step": MeasureValue(20.0)}
    report = make_accuracy(task="denoising", labelled=0, measures=lost)
    gate = judge_accuracy(report, max_drop=0.5, max_error=5.0)
    assert gate.sentence.startswith("Energy of the error of samples: 0.01 points on 1,000")
    grid = accuracy_grid([report])
    assert "without truth" in grid.note
    assert next(row for row in grid.rows if row[0] == "the worst step, from 1")[-1] == "20"


def test_without_truth_the_gate_of_a_detector_is_the_boxes_that_differ(make_accuracy):
    unknown = {"AP": MeasureValue(None), "AP_drop": MeasureValue(None)}
    report = make_accuracy(task="detection", labelled=0, differing=200, measures=unknown)
    gate = judge_accuracy(report, max_drop=0.5, max_error=5.0)
    assert gate.outcome == "fail"
    assert gate.sentence.startswith("The set of boxes differs on 20.00 % of 1,000")
