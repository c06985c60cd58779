"""One limit each: a measurement, the limit, and how the one stands to the other."""

from __future__ import annotations

import math

from edge_vit.errors import SpecError
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, Outcome
from edge_vit.measure.statistics import (
    MAX_IMAGES,
    Interval,
    exact_bounds,
    images_needed,
    median_ratio_interval,
    paired_drop_bounds,
)

_POINTS = 100  # of accuracy: percent of the images


def judge_accuracy(report: AccuracyReport, max_drop: float) -> Gate:
    """Return the gate ``max-drop``: by labels where there are some, else by agreement.

    Pass needs the upper 95 % bound within the limit, fail the lower one beyond it; all else is
    undecided, with the number of images that would decide. Accuracy can never drop by more than the
    share of images whose first answer changed, so agreement alone can pass a classifier; it cannot
    fail one, since a changed answer may as well be a better one. For `features` the nearest
    neighbour is the measure itself, and can fail.

    Args:
        report: against fp32.
        max_drop: in points.
    """
    if report.num_labelled:
        return _judge_drop(report, max_drop)
    return _judge_disagreement(report, max_drop)


def judge_speed(report: LatencyReport, baseline: LatencyReport, min_speedup: float) -> Gate:
    """Return the gate ``min-speedup``: the ratio of the two medians against the limit.

    The interval of the ratio is reported and does not decide.

    Args:
        report: of the precision.
        baseline: of what it has to be faster than.
        min_speedup: a ratio.

    Raises:
        SpecError: the two were not timed in turns, round by round.
    """
    ours, theirs = report.latency_ms.p50, baseline.latency_ms.p50
    if (
        baseline.precision not in report.interleaved_with
        or report.iterations != baseline.iterations
    ):
        raise SpecError(
            f"latency of {report.precision} and {baseline.precision} was not measured in turns, "
            "and cannot be compared. Measure both with: edgevit verify"
        )
    speedup = theirs / ours
    interval = median_ratio_interval(baseline.samples_ms, report.samples_ms)
    name, medians = baseline.precision.upper(), f"median {ours:.3g} ms against {theirs:.3g} ms"
    passes = speedup >= min_speedup
    wanted = f"wanted {min_speedup:g}x"
    if passes:
        than = f"faster than {name}" if speedup >= 1 else f"the speed of {name}, {wanted}"
        sentence = f"{_ratio(speedup)} {than} ({medians})."
    elif speedup < 1:
        sentence = f"It is slower than {name} ({_ratio(speedup)}, {wanted}; {medians})."
    else:
        sentence = f"It is only {_ratio(speedup)} faster than {name} ({wanted}; {medians})."
    return Gate(
        name="min-speedup",
        precision=report.precision,
        outcome="pass" if passes else "fail",
        limit=min_speedup,
        value=speedup,
        low=interval.low,
        high=interval.high,
        sentence=sentence,
    )


def _judge_drop(report: AccuracyReport, limit: float) -> Gate:
    count, lost, gained = report.num_labelled, report.num_lost, report.num_gained

    def bounds(images: float) -> Interval:
        share = images / count
        return _in_points(paired_drop_bounds(lost * share, gained * share, images))

    drop, (low, high) = _POINTS * (lost - gained) / count, bounds(count)
    outcome = _outcome(low, high, limit)
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
        sentence = (
            f"{what} on {count:,} labelled images, but it can be anything from {low:.2f} to "
            f"{high:.2f}, and {limit:g} are allowed; {_how_many(needed)}."
        )
    return Gate("max-drop", report.precision, outcome, limit, drop, low, high, sentence, needed)


def _judge_disagreement(report: AccuracyReport, limit: float) -> Gate:
    count, differing = report.num_images, report.num_images - report.num_agreeing

    def bounds(images: float) -> Interval:
        return _in_points(exact_bounds(differing * images / count, images))

    is_features = report.kl_mean is None
    share, (low, high) = _POINTS * differing / count, bounds(count)
    outcome = _outcome(low, high, limit)
    needed = None
    subject = "Nearest neighbour" if is_features else "First answer"
    what = f"{subject} differs on {share:.2f} % of {count:,} images"
    labels = "without labels, all that is known is that accuracy drops by no more than that"
    if outcome == "pass":
        known = "" if is_features else f"; {labels}"
        sentence = f"{what}, at most {high:.2f} % with 95 % confidence ({limit:g} allowed){known}."
    elif is_features and outcome == "fail":
        sentence = (
            f"{what}, at least {low:.2f} % with 95 % confidence, where {limit:g} are allowed."
        )
    elif not is_features and share >= limit:
        outcome = "undecided"
        sentence = (
            f"{what}, where {limit:g} are allowed; {labels}, and images with labels would decide."
        )
    else:
        needed = images_needed(bounds, limit, share, count)
        known = "" if is_features else f"; {labels}"
        sentence = (
            f"{what}, but it can be anything from {low:.2f} to {high:.2f} %, and {limit:g} are "
            f"allowed{known}; {_how_many(needed)}."
        )
    return Gate("max-drop", report.precision, outcome, limit, share, low, high, sentence, needed)


def _outcome(low: float, high: float, limit: float) -> Outcome:
    return "pass" if high <= limit else "fail" if low > limit else "undecided"


def _in_points(bounds: Interval) -> Interval:
    return Interval(_POINTS * bounds.low, _POINTS * bounds.high)


def _how_many(needed: int | None) -> str:
    if needed is None:
        return f"too close to the limit for {MAX_IMAGES:,} images like these to decide"
    # Two digits are all that an extrapolation from the rates seen so far is worth.
    unit = 10 ** max(0, len(str(needed)) - 2)
    return f"about {math.ceil(needed / unit) * unit:,} images like these would decide"


def _ratio(value: float) -> str:
    """Rounded down, so that a ratio below its limit never reads as the limit itself."""
    return f"{math.floor(value * 100 + 1e-9) / 100:g}x"
