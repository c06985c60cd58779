"""Accuracy against a limit: how a measurement stands to it, by its interval, in plain words."""

from __future__ import annotations

import math

from edge_vit.measure.gate_of import gate_of, outcome_of
from edge_vit.measure.measured import task_of_report
from edge_vit.measure.results import AccuracyReport, Gate
from edge_vit.measure.score_gates import MAX_ERROR, MIN_IMAGES, agreement_can_fail, judge_scores
from edge_vit.measure.spending import ALONE, Trust
from edge_vit.measure.statistics import (
    MAX_IMAGES,
    Interval,
    exact_bounds,
    images_needed,
    paired_drop_bounds,
)

MIN_SQNR_DB = 10.0
"""Below it the error is a third of the output or more; an accuracy that holds, holds by luck."""

NO_EVIDENCE = "No image decides: calibration saw all that there are. Evaluate on other images."

_POINTS = 100  # of accuracy: percent of the images


def judge_accuracy(
    report: AccuracyReport,
    max_drop: float,
    max_error: float = MAX_ERROR,
    trust: Trust = ALONE,
) -> Gate:
    """Return the gate ``max-drop``: by labels where there are some, else by agreement.

    Of a regression model it is ``max-error``: see `judge_scores`.

    Pass needs the upper bound within the limit, fail the lower one beyond it; all else is
    undecided, with the number of images that would decide. Accuracy can never drop by more than the
    share of images whose first answer changed, so agreement alone can pass a classifier; it cannot
    fail one, since a changed answer may as well be a better one. For `features` the nearest
    neighbour is the measure itself, and can fail.

    Args:
        report: against fp32.
        max_drop: in points.
        max_error: of scores, in percent of their spread.
        trust: the confidence of each bound, now and at the next look.
    """
    task = task_of_report(report)
    if task.gate == "max-error":
        return judge_scores(report, max_error, trust)
    loss = report.measures.get(task.loss_measure)
    if loss is not None and loss.value is not None:
        return _judge_measure(report, task.loss_measure, max_drop, trust)
    if report.num_labelled:
        return _judge_drop(report, max_drop, trust)
    return _judge_disagreement(report, max_drop, trust)


def judge_agreement(report: AccuracyReport, min_agreement: float, trust: Trust = ALONE) -> Gate:
    """Return the gate ``min-agreement``: the same first answer as fp32, whatever the labels say.

    Args:
        report: against fp32.
        min_agreement: in percent of the images.
        trust: the confidence of each bound, now and at the next look.
    """
    evidence = report.deciding
    count, differing = evidence.num_images, evidence.num_images - evidence.num_agreeing
    if not count:
        return gate_of(report, "min-agreement", min_agreement, NO_EVIDENCE)
    limit = _POINTS - min_agreement

    def bounds(images: float, confidence: float = trust.next) -> Interval:
        return _in_points(exact_bounds(differing * images / count, images, confidence))

    share, (low, high) = _POINTS * differing / count, bounds(count, trust.now)
    outcome, needed = outcome_of(Interval(low, high), limit), None
    images = _counted(report, count)
    what = f"{_subject(report)} is that of fp32 on {_POINTS - share:.2f} % of {images}"
    if outcome == "pass":
        sentence = (
            f"{what}, at least {_POINTS - high:.2f} % with 95 % confidence "
            f"({min_agreement:g} wanted)."
        )
    elif outcome == "fail":
        sentence = (
            f"{what}, at most {_POINTS - low:.2f} % with 95 % confidence, where {min_agreement:g} "
            "are wanted."
        )
    else:
        needed = images_needed(bounds, limit, share, count)
        sentence = (
            f"{what}, but it can be anything from {_POINTS - high:.2f} to {_POINTS - low:.2f} %, "
            f"and {min_agreement:g} are wanted; {_how_many(needed)}."
        )
    value, both = _POINTS - share, (_POINTS - high, _POINTS - low)
    return gate_of(
        report,
        "min-agreement",
        min_agreement,
        sentence,
        outcome,
        value,
        both,
        images=needed,
        confidence=trust.now,
    )


def judge_sqnr(report: AccuracyReport) -> Gate:
    """Return the gate ``min-sqnr``: outputs whose error is as large as a third of them never pass.

    The limit is far below any INT8 that is of use, so the measured value is held against it alone.

    Args:
        report: against fp32.
    """
    value = report.sqnr_db
    is_kept = value is None or value >= MIN_SQNR_DB
    measured = "the outputs are equal" if value is None else f"{value:.1f} dB"
    verb = "at least" if is_kept else "where at least"
    sentence = f"Signal to quantization noise: {measured} ({verb} {MIN_SQNR_DB:g} dB wanted)."
    known = value if value is None or math.isfinite(value) else None
    return gate_of(report, "min-sqnr", MIN_SQNR_DB, sentence, "pass" if is_kept else "fail", known)


def _judge_drop(report: AccuracyReport, limit: float, trust: Trust) -> Gate:
    evidence = report.deciding
    count, lost, gained = evidence.num_labelled, evidence.num_lost, evidence.num_gained
    if not count:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)

    def bounds(images: float, confidence: float = trust.next) -> Interval:
        share = images / count
        return _in_points(paired_drop_bounds(lost * share, gained * share, images, confidence))

    drop, (low, high) = _POINTS * (lost - gained) / count, bounds(count, trust.now)
    outcome = outcome_of(Interval(low, high), limit)
    needed = None
    what = f"Accuracy {'drop' if drop >= 0 else 'gain'} {abs(drop):.2f} points"
    if outcome == "pass":
        at_most = "at most" if drop >= 0 else "a drop of at most"
        most = max(0.0, high)  # a bound below zero says that there is none
        sentence = f"{what}, {at_most} {most:.2f} with 95 % confidence ({limit:g} allowed)."
    elif outcome == "fail":
        sentence = f"{what}, at least {low:.2f} with 95 % confidence, where {limit:g} are allowed."
    else:
        needed = images_needed(bounds, limit, drop, count)
        images = _counted(report, count, "labelled ")
        sentence = (
            f"{what} on {images}, but it can be anything from {low:.2f} to {high:.2f}, and "
            f"{limit:g} are allowed; {_how_many(needed)}."
        )
    return gate_of(
        report,
        "max-drop",
        limit,
        sentence,
        outcome,
        drop,
        (low, high),
        images=needed,
        confidence=trust.now,
    )


def _judge_measure(report: AccuracyReport, name: str, limit: float, trust: Trust) -> Gate:
    """Judge the loss that a measure of the task gives, in shares, by its interval.

    The measure is of all images: those that were calibrated on flatter it, and it decides nothing
    while they are among them.
    """
    found, task = report.measures[name], task_of_report(report)
    if found.value is None or found.low is None or found.high is None:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)
    drop, low, high = (_POINTS * each for each in (found.value, found.low, found.high))
    outcome, why = outcome_of(Interval(low, high), limit), ""
    if report.num_calibrated_on:
        outcome, why = "undecided", " Calibration saw some of the images: evaluate on others."
    elif report.deciding.num_images < MIN_IMAGES:
        outcome, why = "undecided", f" {MIN_IMAGES} images are the fewest that decide."
    title = next(measure.title for measure in task.measures if measure.name == name)
    shown, least, most = (f"{round(each, 2) + 0:.2f}" for each in (drop, low, high))
    sentence = (
        f"{title}: {shown} points on {_counted(report, report.deciding.num_images)}, {least} to "
        f"{most} with 95 % confidence, {limit:g} allowed.{why}"
    )
    return gate_of(
        report, "max-drop", limit, sentence, outcome, drop, (low, high), confidence=trust.now
    )


def _judge_disagreement(report: AccuracyReport, limit: float, trust: Trust) -> Gate:
    evidence = report.deciding
    count, differing = evidence.num_images, evidence.num_images - evidence.num_agreeing
    if not count:
        return gate_of(report, "max-drop", limit, NO_EVIDENCE)

    def bounds(images: float, confidence: float = trust.next) -> Interval:
        return _in_points(exact_bounds(differing * images / count, images, confidence))

    is_loss = task_of_report(report).disagreement_is_loss
    share, (low, high) = _POINTS * differing / count, bounds(count, trust.now)
    outcome = outcome_of(Interval(low, high), limit)
    needed = None
    what = f"{_subject(report)} differs on {share:.2f} % of {_counted(report, count)}"
    if not agreement_can_fail(report):
        sentence = (
            f"Each label is on in all or none of {count:,} images, for fp32 and {report.precision} "
            "alike: that both agree says nothing. Take images that show different things, or set "
            "--threshold at export."
        )
        return gate_of(
            report,
            "max-drop",
            limit,
            sentence,
            "undecided",
            share,
            (low, high),
            confidence=trust.now,
        )
    labels = "without labels, all that is known is that accuracy drops by no more than that"
    if outcome == "pass":
        known = "" if is_loss else f"; {labels}"
        sentence = f"{what}, at most {high:.2f} % with 95 % confidence ({limit:g} allowed){known}."
    elif is_loss and outcome == "fail":
        sentence = (
            f"{what}, at least {low:.2f} % with 95 % confidence, where {limit:g} are allowed."
        )
    elif not is_loss and share >= limit:
        outcome = "undecided"
        sentence = (
            f"{what}, where {limit:g} are allowed; {labels}, and images with labels would decide."
        )
    else:
        needed = images_needed(bounds, limit, share, count)
        known = "" if is_loss else f"; {labels}"
        sentence = (
            f"{what}, but it can be anything from {low:.2f} to {high:.2f} %, and {limit:g} are "
            f"allowed{known}; {_how_many(needed)}."
        )
    return gate_of(
        report,
        "max-drop",
        limit,
        sentence,
        outcome,
        share,
        (low, high),
        images=needed,
        confidence=trust.now,
    )


def _counted(report: AccuracyReport, count: int, kind: str = "") -> str:
    """How many images decide, and that they are not all that there are, where they are not."""
    different = "" if report.deciding.num_images == report.num_images else "different "
    return f"{count:,} {different}{kind}images"


def _in_points(bounds: Interval) -> Interval:
    return Interval(_POINTS * bounds.low, _POINTS * bounds.high)


def _subject(report: AccuracyReport) -> str:
    """Return what is compared."""
    return task_of_report(report).wording.subject


def _how_many(needed: int | None) -> str:
    if needed is None:
        return f"too close to the limit for {MAX_IMAGES:,} images like these to decide"
    # Two digits are all that an extrapolation from the rates seen so far is worth.
    unit = 10 ** max(0, len(str(needed)) - 2)
    return f"about {math.ceil(needed / unit) * unit:,} images like these would decide"
