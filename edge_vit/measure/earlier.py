"""Guards against regressions: a measurement against the same of an earlier report."""

from __future__ import annotations

import functools
import math

from edge_vit.measure.gates import error_since, gate_of, outcome_of
from edge_vit.measure.likeness import accuracy_conditions, differences, latency_differences
from edge_vit.measure.limits import Limits
from edge_vit.measure.ratio import rounds_needed, unpaired_interval
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, VerifyReport
from edge_vit.measure.speed_gates import how_many_runs, too_few_runs
from edge_vit.measure.statistics import Interval, paired_drop_bounds

_POINTS = 100


def judge_earlier(
    accuracy: AccuracyReport, latency: LatencyReport, earlier: VerifyReport, limits: Limits
) -> tuple[Gate, ...]:
    """Return the gates ``baseline-speed`` and ``baseline-accuracy`` of one precision and backend.

    Where conditions are unlike, or `earlier` lacks what is wanted, a gate is undecided, and its
    sentence says what differs: a slower machine is no slower model.
    """
    place = (latency.backend, latency.precision)
    timed = next((r for r in earlier.latency if (r.backend, r.precision) == place), None)
    judged = next((r for r in earlier.accuracy if (r.backend, r.precision) == place), None)
    most = limits.max_error if accuracy.scores else limits.max_drop
    return (
        _judge_speed(latency, timed, limits.max_slowdown),
        _judge_accuracy(accuracy, judged, most),
    )


def _judge_speed(now: LatencyReport, then: LatencyReport | None, limit: float) -> Gate:
    make = functools.partial(gate_of, now, "baseline-speed", limit)
    if then is None:
        return make(f"The earlier report has no latency of {now.precision} on {now.backend}.")
    unlike = latency_differences(then, now)
    if unlike:
        return make(f"Latency cannot be held against the earlier report: {'; '.join(unlike)}.")
    if not now.samples_ms or not then.samples_ms:
        return make("Latency cannot be held against the earlier report: it kept no single runs.")
    ratio = now.latency_ms.p50 / then.latency_ms.p50
    low, high = interval = unpaired_interval(now, then)
    what = f"The median is {ratio:.3f} times that of the earlier report"
    if not math.isfinite(high):
        fewest = too_few_runs(min(now.iterations, then.iterations))
        return make(f"{what} ({limit:g} allowed), {fewest}.")
    outcome, needed = outcome_of(interval, limit), None
    what += (
        f" ({now.latency_ms.p50:.3g} ms against {then.latency_ms.p50:.3g} ms), {low:.3f} to "
        f"{high:.3f} with 95 % confidence, {limit:g} allowed"
    )
    if outcome == "undecided":
        needed = rounds_needed(interval, limit, now.iterations)
        what += f"; {how_many_runs(needed, ' in both')}"
    return make(f"{what}.", outcome, ratio, interval, runs=needed)


def _judge_accuracy(now: AccuracyReport, then: AccuracyReport | None, limit: float) -> Gate:
    make = functools.partial(gate_of, now, "baseline-accuracy", limit)
    if then is None:
        return make(f"The earlier report has no accuracy of {now.precision} on {now.backend}.")
    unlike = differences(accuracy_conditions(then), accuracy_conditions(now))
    if unlike:
        return make(f"Accuracy cannot be held against the earlier report: {'; '.join(unlike)}.")
    if _is_same(now, then):
        sentence = "The answers are those of the earlier report, to the last digit."
        return make(sentence, "pass", 0.0, Interval(0.0, 0.0))
    drop, (low, high) = bounds = loss_since(now, then)
    outcome = outcome_of(bounds[1], limit)
    if now.scores:
        sentence = (
            f"Since the earlier report the error of the scores grew by {drop:.2f} % of their "
            f"spread, {low:.2f} to {high:.2f} with 95 % confidence each, {limit:g} allowed."
        )
        return make(sentence, outcome, drop, bounds[1])
    measure = "accuracy" if now.num_labelled else "agreement with fp32"
    verb = "lost" if drop >= 0 else "gained"
    sentence = (
        f"Since the earlier report {abs(drop):.2f} points of {measure} are {verb} on the same "
        f"images, {low:.2f} to {high:.2f} lost with 95 % confidence each, {limit:g} allowed."
    )
    return make(sentence, outcome, drop, bounds[1])


def loss_since(now: AccuracyReport, then: AccuracyReport) -> tuple[float, Interval]:
    """Return the points lost since `then` on the same images, and their bounds.

    Points of accuracy where there are labels, else of the agreement with fp32. Which single images
    changed is not known. Against the same fp32, both answers differ from its own on a few images
    only, so that at most the sum of those can have changed; of two models, at most the sum of what
    both get wrong. The bounds are for that worst case. Where nothing changed, as with the same
    graph on the same images, they are 0. Of a regression it is the error, see `error_since`.
    """
    if _is_same(now, then):
        return 0.0, Interval(0.0, 0.0)
    if now.scores and len(now.scores) == len(then.scores):
        return error_since(now, then)
    count = now.num_labelled or now.num_images
    most = 2 * now.num_images - now.num_agreeing - then.num_agreeing
    change = then.num_agreeing - now.num_agreeing
    if now.top1 is not None and then.top1 is not None:
        right = [round(now.top1 * count), round(then.top1 * count)]
        change = right[1] - right[0]
        # Equal accuracies of fp32 alone do not show that it is the same one.
        if not _is_equal(now, then, "reference_top1", "reference_top5", "reference_confusion"):
            most = min(2 * count - sum(right), sum(right))
    most = max(min(most, count), abs(change))
    # A copy is no evidence; of how many images there are different ones, as many are counted.
    share = min(report.deciding.num_images / report.num_images for report in (now, then))
    if share == 0:
        return _POINTS * change / count, Interval(-_POINTS, _POINTS)
    low, high = paired_drop_bounds(
        share * (most + change) / 2, share * (most - change) / 2, share * count
    )
    return _POINTS * change / count, Interval(_POINTS * low, _POINTS * high)


def _is_same(now: AccuracyReport, then: AccuracyReport) -> bool:
    """Whether nothing changed, as with the same graph on the same images."""
    names = (
        *("top1", "reference_top1", "num_agreeing", "num_lost", "num_gained"),
        *("cosine_mean", "cosine_min", "sqnr_db", "scores"),
    )
    return _is_equal(now, then, *names)


def _is_equal(now: AccuracyReport, then: AccuracyReport, *names: str) -> bool:
    return all(getattr(now, name) == getattr(then, name) for name in names)
