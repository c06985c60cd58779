"""Numeric scores against a limit: how far a precision may move them, in parts of their spread."""

from __future__ import annotations

import math
from statistics import NormalDist

from edge_vit.measure.gate_of import gate_of, outcome_of
from edge_vit.measure.results import AccuracyReport, Gate, ScoreError
from edge_vit.measure.spending import ALONE, Trust
from edge_vit.measure.statistics import Interval, images_needed

MAX_ERROR = 5.0
"""Default limit of the gate ``max-error``, in percent of the spread of fp32's values."""

MIN_IMAGES = 30
"""Fewest images that decide: of fewer, a mean says too little of a long-tailed error."""

_PERCENT = 100
_Z = 1.959963984540054  # normal quantile at 0.975


def judge_scores(
    report: AccuracyReport, max_error: float = MAX_ERROR, trust: Trust = ALONE
) -> Gate:
    """Return the gate ``max-error`` of a regression model: its worst score decides.

    The error is the mean absolute difference from fp32, over the standard deviation of fp32's
    values over the images: an error that is small beside what tells images apart changes little.
    Without such a spread nothing can be decided.

    Args:
        report: against fp32, of the task `regression`.
        max_error: in percent of the spread.
        trust: the confidence of each bound, now and at the next look.
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
    value = _PERCENT * worst.mean_error / worst.spread
    bounds = [_bounds(score, max(count, 2), trust.now) for score in report.scores]
    low, high = max(b.low for b in bounds), max(b.high for b in bounds)
    outcome = outcome_of(Interval(low, high), max_error)
    if count < MIN_IMAGES:
        outcome = "undecided"
    name = f" of {worst.label}" if len(report.scores) > 1 else ""
    what = (
        f"The score{name} differs from fp32's by {worst.mean_error:.3g} on average, {value:.2f} % "
        f"of the spread of its values on {count:,} images"
    )
    needed = None
    if outcome == "pass":
        sentence = f"{what}, at most {high:.2f} % with 95 % confidence ({max_error:g} allowed)."
    elif outcome == "fail":
        sentence = (
            f"{what}, at least {low:.2f} % with 95 % confidence, where {max_error:g} are allowed."
        )
    else:
        needed = images_needed(
            lambda n: _bounds(worst, n, trust.next), max_error, value, max(count, 2)
        )
        needed = needed and max(needed, MIN_IMAGES)
        sentence = (
            f"{what}, but it can be anything from {low:.2f} to {high:.2f} %, and {max_error:g} are "
            "allowed; " + (f"about {needed:,} images would decide." if needed else "too close.")
        )
    return gate_of(
        report,
        "max-error",
        max_error,
        sentence,
        outcome,
        value,
        (low, high),
        images=needed,
        confidence=trust.now,
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
        scale = _PERCENT / (old.spread or new.spread or 1.0)
        change = scale * (new.mean_error - old.mean_error)
        both = new.error_deviation + old.error_deviation if new != old else 0.0
        margin = scale * _Z * both / math.sqrt(now.num_images)
        changes.append((change, Interval(change - margin, change + margin)))
    return max(changes, key=lambda each: each[1].high)


def _bounds(score: ScoreError, count: float, confidence: float) -> Interval:
    """Return bounds of the relative error in percent, each of which holds with `confidence`.

    Student's interval of the mean error, and the chi-squared one of the spread in Wilson and
    Hilferty's form; each spends half of the error, so that both hold together.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    freedom = count - 1
    margin = _student(freedom, z) * score.error_deviation / math.sqrt(count)
    low, high = max(0.0, score.mean_error - margin), score.mean_error + margin
    part = 2 / (9 * freedom)
    most, least = ((1 - part + side * z * math.sqrt(part)) ** 1.5 for side in (1, -1))
    # A spread of s comes from one between s / most and s / least.
    return Interval(
        _PERCENT * low * max(least, 0.0) / score.spread, _PERCENT * high * most / score.spread
    )


def _student(freedom: float, z: float) -> float:
    """Return the quantile of Student's t, by the expansion in Abramowitz and Stegun 26.7.5.

    From 29 degrees of freedom on it is exact to four digits; fewer images never decide.

    Args:
        freedom: degrees of freedom.
        z: the same quantile of the normal distribution.
    """
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
