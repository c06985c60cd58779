"""Accuracy against a limit: how a measurement stands to it, by its interval, in plain words."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from edge_vit.measure.measured import task_of_report
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, Outcome, ScoreError
from edge_vit.measure.spending import ALONE, Trust
from edge_vit.measure.statistics import (
    CONFIDENCE,
    MAX_IMAGES,
    Interval,
    exact_bounds,
    images_needed,
    paired_drop_bounds,
    student_quantile,
)
from edge_vit.tasks.measures import Z_TWO_SIDED

MIN_SQNR_DB = 10.0
"""Below it the error is a third of the output or more; an accuracy that holds, holds by luck."""

MAX_ERROR = 5.0
"""Default limit of the gate ``max-error``, in percent of the spread of fp32's values."""

MIN_IMAGES = 30
"""Fewest images by which a mean decides: of fewer, it says too little of a long-tailed error."""

NO_EVIDENCE = "No image decides: calibration saw all that there are. Evaluate on other images."

_POINTS = 100  # of accuracy: percent of the images
_MOST = 1 - 1e-12  # confidence of a normal bound, which would be infinite at 1

Bounds = Callable[[float, float], Interval]
"""(images, confidence of each bound) -> bounds, at the rates seen so far."""


def gate_of(
    report: AccuracyReport | LatencyReport,
    name: str,
    limit: float,
    sentence: str,
    outcome: Outcome = "undecided",
    value: float | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
    needed: int | None = None,
    confidence: float = CONFIDENCE,
) -> Gate:
    """Return the gate `name` of `report`; `needed` is how many images or runs would decide it."""
    is_timed = isinstance(report, LatencyReport)
    return Gate(
        *(name, report.precision, outcome, limit, value, *bounds, sentence),
        images_needed=None if is_timed else needed,
        runs_needed=needed if is_timed else None,
        backend=report.backend,
        confidence=confidence,
    )


def outcome_of(bounds: Interval, limit: float) -> Outcome:
    """Return ``pass`` where all of `bounds` is within `limit`, ``fail`` where all is beyond it."""
    return "pass" if bounds.high <= limit else "fail" if bounds.low > limit else "undecided"


def judge_accuracy(
    report: AccuracyReport, max_drop: float, max_error: float = MAX_ERROR, trust: Trust = ALONE
) -> Gate:
    """Return the gate ``max-drop``: by labels where there are some, else by agreement.

    Of a regression model it is ``max-error``, see `judge_scores`. Accuracy can never drop by more
    than the share of images whose prediction changed, so agreement alone can pass a classifier; it
    cannot fail one, since a changed prediction may as well be a better one. For `features` the
    nearest neighbour is the measure itself, and can fail.
    """
    task = task_of_report(report)
    if task.gate == "max-error":
        return judge_scores(report, max_error, trust)
    if name := task.loss_of(report.measures):
        return _judge_measure(report, name, max_drop, trust)
    if report.num_labelled:
        return _judge_drop(report, max_drop, trust)
    return _judge_disagreement(report, max_drop, trust)


def judge_agreement(report: AccuracyReport, min_agreement: float, trust: Trust = ALONE) -> Gate:
    """Return the gate ``min-agreement``: the same prediction as fp32, in percent of the images."""
    count, differing = _differing(report)
    if not count:
        return gate_of(report, "min-agreement", min_agreement, NO_EVIDENCE)
    bounds, limit = _shares(differing, count), _POINTS - min_agreement
    share, (low, high) = _POINTS * differing / count, bounds(count, trust.now)
    outcome, needed = outcome_of(Interval(low, high), limit), None
    least, most, value = _POINTS - high, _POINTS - low, _POINTS - share
    what = (
        f"{task_of_report(report).wording.subject} is that of fp32 on {value:.2f} % of "
        f"{_counted(report, count)}"
    )
    if outcome == "undecided":
        needed = images_needed(lambda n: bounds(n, trust.next), limit, share, count)
        sentence = (
            f"{what}, but it can be anything from {least:.2f} to {most:.2f} %, and "
            f"{min_agreement:g} are wanted; {_how_many(needed)}."
        )
    elif outcome == "pass":
        sentence = (
            f"{what}, at least {least:.2f} % with 95 % confidence ({min_agreement:g} wanted)."
        )
    else:
        sentence = (
            f"{what}, at most {most:.2f} % with 95 % confidence, where {min_agreement:g} are "
            "wanted."
        )
    within = (least, most)
    return gate_of(
        report, "min-agreement", min_agreement, sentence, outcome, value, within, needed, trust.now
    )


def judge_sqnr(report: AccuracyReport) -> Gate:
    """Return the gate ``min-sqnr``: outputs whose error is as large as a third of them never pass.

    The limit is far below any INT8 that is of use, so the measured value is held against it alone.
    """
    value = report.sqnr_db
    is_kept = value is None or value >= MIN_SQNR_DB
    measured = "the outputs are equal" if value is None else f"{value:.1f} dB"
    verb = "at least" if is_kept else "where at least"
    sentence = f"Signal to quantization noise: {measured} ({verb} {MIN_SQNR_DB:g} dB wanted)."
    known = value if value is None or math.isfinite(value) else None
    return gate_of(report, "min-sqnr", MIN_SQNR_DB, sentence, "pass" if is_kept else "fail", known)


def judge_scores(
    report: AccuracyReport, max_error: float = MAX_ERROR, trust: Trust = ALONE
) -> Gate:
    """Return the gate ``max-error`` of a regression model: its worst score decides.

    The error is the mean absolute difference from fp32, in percent of the standard deviation of
    fp32's values over the images: an error that is small beside what tells images apart changes
    little. Without such a spread nothing can be decided.
    """
    flat = [score for score in report.scores if score.spread == 0]
    if flat or not report.scores:
        which = f"score {flat[0].label}" if flat else "the scores"
        return gate_of(
            report,
            "max-error",
            max_error,
            f"fp32 gives the same value of {which} for all {report.num_images:,} images: what an "
            "error means beside it is not known. Take images that differ.",
        )
    worst = max(report.scores, key=lambda score: score.mean_error / score.spread)
    count = report.deciding.num_images
    value = _POINTS * worst.mean_error / worst.spread
    each = [_error_bounds(score, max(count, 2), trust.now) for score in report.scores]
    bounds = Interval(max(b.low for b in each), max(b.high for b in each))
    outcome = outcome_of(bounds, max_error) if count >= MIN_IMAGES else "undecided"
    name = f" of {worst.label}" if len(report.scores) > 1 else ""
    what = (
        f"The score{name} differs from fp32's by {worst.mean_error:.3g} on average, {value:.2f} % "
        f"of the spread of its values on {count:,} images"
    )
    needed, decides = None, ""
    if outcome == "undecided":
        needed = images_needed(
            lambda n: _error_bounds(worst, n, trust.next), max_error, value, max(count, 2)
        )
        needed = needed and max(needed, MIN_IMAGES)
        decides = f"about {needed:,} images would decide" if needed else "too close"
    sentence = _say(what, outcome, bounds, max_error, decides, " %")
    return gate_of(
        report, "max-error", max_error, sentence, outcome, value, bounds, needed, trust.now
    )


def agreement_can_fail(report: AccuracyReport) -> bool:
    """Return whether the share of equal predictions says anything of this model on these images.

    The side of a threshold says nothing where every value of the reference lies on one side, nor do
    labels that are all on or off in every image alike.
    """
    if report.scores:
        return any(0 < score.above < report.num_images for score in report.scores)
    if report.per_label:
        return any(
            0 < label.reference_on < report.num_images or label.agreement < 1
            for label in report.per_label
        )
    return True


def error_since(now: AccuracyReport, then: AccuracyReport) -> tuple[float, Interval]:
    """Return how much the worst score's error grew since `then`, in percent of its spread.

    Both are of the same images. Which single ones changed is not kept, so that the bounds, each of
    which holds with 95 % confidence, add both standard errors as if they never evened out.
    """
    changes = []
    for new, old in zip(now.scores, then.scores, strict=True):
        scale = _POINTS / (old.spread or new.spread or 1.0)
        change = scale * (new.mean_error - old.mean_error)
        both = new.error_deviation + old.error_deviation if new != old else 0.0
        margin = scale * Z_TWO_SIDED * both / math.sqrt(now.num_images)
        changes.append((change, Interval(change - margin, change + margin)))
    return max(changes, key=lambda each: each[1].high)


def _judge_drop(report: AccuracyReport, limit: float, trust: Trust) -> Gate:
    evidence = report.deciding
    count, lost, gained = evidence.num_labelled, evidence.num_lost, evidence.num_gained
    if not count:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)

    def bounds(images: float, confidence: float) -> Interval:
        share = images / count
        return _in_points(paired_drop_bounds(lost * share, gained * share, images, confidence))

    drop, found = _POINTS * (lost - gained) / count, bounds(count, trust.now)
    outcome, needed = outcome_of(found, limit), None
    what = f"Accuracy {'drop' if drop >= 0 else 'gain'} {abs(drop):.2f} points"
    if outcome == "undecided":
        needed = images_needed(lambda n: bounds(n, trust.next), limit, drop, count)
        what += f" on {_counted(report, count, 'labelled ')}"
    sentence = _say(what, outcome, found, limit, _how_many(needed))
    if outcome == "pass":
        at_most = "at most" if drop >= 0 else "a drop of at most"
        most = max(0.0, found.high)  # a bound below zero says that there is none
        sentence = f"{what}, {at_most} {most:.2f} with 95 % confidence ({limit:g} allowed)."
    return gate_of(report, "max-drop", limit, sentence, outcome, drop, found, needed, trust.now)


def _judge_measure(report: AccuracyReport, name: str, limit: float, trust: Trust) -> Gate:
    """Judge the loss that a measure of the task gives, in shares, by its interval.

    The measure is of all images: those that were calibrated on flatter it, and it decides nothing
    while they are among them. Its interval is of 95 %; for a higher confidence it is widened as
    that of a normal distribution is, and by the root of how often an image came on average.
    """
    found, task = report.measures[name], task_of_report(report)
    if found.value is None or found.low is None or found.high is None:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)
    wider = _POINTS * max(1.0, NormalDist().inv_cdf(min(trust.now, _MOST)) / Z_TWO_SIDED)
    if report.deciding.num_images and not report.num_calibrated_on:
        wider *= math.sqrt(report.num_images / report.deciding.num_images)
    drop = _POINTS * found.value
    low, high = (drop + wider * (each - found.value) for each in (found.low, found.high))
    outcome, why = outcome_of(Interval(low, high), limit), ""
    if report.num_calibrated_on:
        outcome, why = "undecided", " Calibration saw some of the images: evaluate on others."
    elif report.deciding.num_images < MIN_IMAGES:
        outcome, why = "undecided", f" {MIN_IMAGES} images are the fewest that decide."
    title = next(measure.title for measure in task.measures if measure.name == name)
    what = f"{title[0].upper()}{title[1:]}"
    shown, least, most = (f"{round(each, 2) + 0:.2f}" for each in (drop, low, high))
    sentence = (
        f"{what}: {shown} points on {_counted(report, report.deciding.num_images)}, {least} to "
        f"{most} with 95 % confidence, {limit:g} allowed.{why}"
    )
    return gate_of(
        report, "max-drop", limit, sentence, outcome, drop, (low, high), confidence=trust.now
    )


def _judge_disagreement(report: AccuracyReport, limit: float, trust: Trust) -> Gate:
    count, differing = _differing(report)
    if not count:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)
    bounds, task, needed = _shares(differing, count), task_of_report(report), None
    share, found = _POINTS * differing / count, bounds(count, trust.now)
    outcome = outcome_of(found, limit)
    what = f"{task.wording.subject} differs on {share:.2f} % of {_counted(report, count)}"
    labels = "without labels, all that is known is that accuracy drops by no more than that"
    known = "" if task.disagreement_is_loss else f"; {labels}"
    if not agreement_can_fail(report):
        outcome = "undecided"
        sentence = (
            f"Each label is on in all or none of {count:,} images, for fp32 and {report.precision} "
            "alike: that both agree says nothing. Take images that show different things, or set "
            "--threshold at export."
        )
    elif known and outcome != "pass" and share >= limit:
        outcome = "undecided"
        sentence = (
            f"{what}, where {limit:g} are allowed{known}, and images with labels would decide."
        )
    else:
        if outcome == "undecided":
            needed = images_needed(lambda n: bounds(n, trust.next), limit, share, count)
        sentence = _say(what, outcome, found, limit, _how_many(needed), " %", known)
    return gate_of(report, "max-drop", limit, sentence, outcome, share, found, needed, trust.now)


def _say(
    what: str,
    outcome: Outcome,
    bounds: Interval,
    limit: float,
    decides: str,
    unit: str = "",
    known: str = "",
) -> str:
    """What was measured, its bounds, what is allowed, and `decides`: what would decide."""
    low, high = bounds
    if outcome == "pass":
        return f"{what}, at most {high:.2f}{unit} with 95 % confidence ({limit:g} allowed){known}."
    if outcome == "fail":
        return (
            f"{what}, at least {low:.2f}{unit} with 95 % confidence, where {limit:g} are allowed."
        )
    return (
        f"{what}, but it can be anything from {low:.2f} to {high:.2f}{unit}, and {limit:g} are "
        f"allowed{known}; {decides}."
    )


def _differing(report: AccuracyReport) -> tuple[int, int]:
    """How many images decide, and how many of them have another prediction."""
    evidence = report.deciding
    return evidence.num_images, evidence.num_images - evidence.num_agreeing


def _shares(differing: int, count: int) -> Bounds:
    return lambda images, confidence: _in_points(
        exact_bounds(differing * images / count, images, confidence)
    )


def _counted(report: AccuracyReport, count: int, kind: str = "") -> str:
    """How many images decide, and that they are not all that there are, where they are not."""
    different = "" if report.deciding.num_images == report.num_images else "different "
    return f"{count:,} {different}{kind}image{'' if count == 1 else 's'}"


def _in_points(bounds: Interval) -> Interval:
    return Interval(_POINTS * bounds.low, _POINTS * bounds.high)


def _how_many(needed: int | None) -> str:
    if needed is None:
        return f"too close to the limit for {MAX_IMAGES:,} images like these to decide"
    # Two digits are all that an extrapolation from the rates seen so far is worth.
    unit = 10 ** max(0, len(str(needed)) - 2)
    return f"about {math.ceil(needed / unit) * unit:,} images like these would decide"


def _error_bounds(score: ScoreError, count: float, confidence: float) -> Interval:
    """Bounds of the relative error in percent, each of which holds with `confidence`.

    Student's interval of the mean error, and the chi-squared one of the spread in Wilson and
    Hilferty's form; each spends half of the error, so that both hold together.
    """
    z, freedom = NormalDist().inv_cdf(0.5 + confidence / 2), count - 1
    margin = student_quantile(confidence, freedom) * score.error_deviation / math.sqrt(count)
    low, high = max(0.0, score.mean_error - margin), score.mean_error + margin
    part = 2 / (9 * freedom)
    most, least = ((1 - part + side * z * math.sqrt(part)) ** 1.5 for side in (1, -1))
    # A spread of s comes from one between s / most and s / least.
    return Interval(
        _POINTS * low * max(least, 0.0) / score.spread, _POINTS * high * most / score.spread
    )
