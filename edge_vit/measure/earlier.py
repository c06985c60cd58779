"""Guards against regressions: a measurement against the same of an earlier report."""

from __future__ import annotations

import functools
import math

from edge_vit.measure.gate_of import gate_of, outcome_of
from edge_vit.measure.likeness import accuracy_conditions, differences, latency_differences
from edge_vit.measure.limits import Limits
from edge_vit.measure.ratio import median_ratio_interval, rounds_needed, shared_stretches
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, VerifyReport
from edge_vit.measure.score_gates import error_since
from edge_vit.measure.speed_gates import how_many_runs, too_few_runs
from edge_vit.measure.statistics import Interval, paired_drop_bounds

_POINTS = 100


def judge_earlier(
    accuracy: AccuracyReport, latency: LatencyReport, earlier: VerifyReport, limits: Limits
) -> tuple[Gate, ...]:
    """Return the gates ``baseline-speed`` and ``baseline-accuracy`` of one precision and backend.

    Where conditions are unlike a gate is undecided, and its sentence says what differs: a slower
    machine is no slower model.

    Args:
        accuracy: measured now.
        latency: measured now.
        earlier: the report that must not be fallen behind; what it lacks is undecided.
        limits: `max_slowdown` and `max_drop`.
    """
    place = (latency.backend, latency.precision)
    timed = next((r for r in earlier.latency if (r.backend, r.precision) == place), None)
    judged = next((r for r in earlier.accuracy if (r.backend, r.precision) == place), None)
    return (
        _judge_speed(latency, timed, limits.max_slowdown),
        _judge_accuracy(
            accuracy,
            judged,
            limits.max_error if accuracy.scores else limits.max_drop,
        ),
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
    low, high = interval = median_ratio_interval(
        now.samples_ms,
        then.samples_ms,
        paired=False,
        stretches=shared_stretches(now.num_openings, then.num_openings),
    )
    if not math.isfinite(high):
        fewest = min(now.iterations, then.iterations)
        return make(
            f"The median is {ratio:.3f} times that of the earlier report ({limit:g} allowed), "
            f"{too_few_runs(fewest)}."
        )
    outcome = outcome_of(Interval(low, high), limit)
    what = (
        f"The median is {ratio:.3f} times that of the earlier report ({now.latency_ms.p50:.3g} ms "
        f"against {then.latency_ms.p50:.3g} ms), {low:.3f} to {high:.3f} with 95 % confidence, "
        f"{limit:g} allowed"
    )
    needed = None
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
    drop, (low, high) = loss_since(now, then)
    outcome = outcome_of(Interval(low, high), limit)
    if now.scores:
        sentence = (
            f"Since the earlier report the error of the scores grew by {drop:.2f} % of their "
            f"spread, {low:.2f} to {high:.2f} with 95 % confidence each, {limit:g} allowed."
        )
        return make(sentence, outcome, drop, Interval(low, high))
    measure = "accuracy" if now.num_labelled else "agreement with fp32"
    verb = "lost" if drop >= 0 else "gained"
    sentence = (
        f"Since the earlier report {abs(drop):.2f} points of {measure} are {verb} on the same "
        f"images, {low:.2f} to {high:.2f} lost with 95 % confidence each, {limit:g} allowed."
    )
    return make(sentence, outcome, drop, Interval(low, high))


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
        right = [round(report.top1 * count) for report in (now, then) if report.top1 is not None]
        change = right[1] - right[0]
        if not _is_same_reference(now, then):
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


def _is_same_reference(now: AccuracyReport, then: AccuracyReport) -> bool:
    """Whether both were held against one fp32, as far as its answers to each class tell.

    Equal accuracies alone do not: a model that was trained anew can have the same by chance.
    """
    names = ("reference_top1", "reference_top5", "reference_confusion")
    return all(getattr(now, name) == getattr(then, name) for name in names)


def _is_same(now: AccuracyReport, then: AccuracyReport) -> bool:
    """Whether nothing changed, as with the same graph on the same images."""
    names = (
        *("top1", "reference_top1", "num_agreeing", "num_lost", "num_gained"),
        *("cosine_mean", "cosine_min", "sqnr_db", "scores"),
    )
    return all(getattr(now, name) == getattr(then, name) for name in names)
