"""One measurement against an earlier one: what changed, and whether that is allowed.

A ratio of two latencies says something about the models only where everything else was alike, so
conditions that differ allow no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from edge_vit.measure.gates import error_since, gate_of, outcome_of
from edge_vit.measure.limits import Limits
from edge_vit.measure.measured import task_of_report
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, VerifyReport
from edge_vit.measure.speed import (
    TOLERANCE,
    find_difference,
    how_many_runs,
    rounds_needed,
    too_few_runs,
    unpaired_interval,
)
from edge_vit.measure.statistics import Interval, paired_drop_bounds
from edge_vit.values import to_json

_OF_THE_RUN = (
    *("batch_size", "threads", "scenario", "interval_ms", "is_on_gpu", "provider"),
    "cuda_graph",
)
_OF_THE_GPU = ("gpu", "compute_capability", "driver", "cuda", "tensorrt", "l4t")
_NOT_OF_THE_MACHINE = frozenset({*_OF_THE_GPU, "packages", "memory_gib", "python"})
"""What may differ, or counts by itself."""

_RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "ort": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "trt": ("tensorrt",),
    "rtx": ("tensorrt-rtx-cu13",),
}
"""Packages that do the work of each backend: what else is installed makes nothing slower."""

_POINTS = 100

Word = Literal["slower", "faster", "worse", "better", "no difference"]
Report = TypeVar("Report", AccuracyReport, LatencyReport)


Conditions = Mapping[str, str]


class Found(NamedTuple):
    """What changed: the ratio of the medians, or points of accuracy lost, with its 95 % interval.

    Where conditions are `unlike` nothing is known.
    """

    sentence: str
    difference: Word | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unlike: tuple[str, ...] = ()


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
    speed = latency_change(timed, latency) if timed else None
    loss = accuracy_change(judged, accuracy) if judged else None
    most = limits.max_error if accuracy.scores else limits.max_drop
    return (
        _judge("baseline-speed", "latency", latency, speed, limits.max_slowdown),
        _judge("baseline-accuracy", "accuracy", accuracy, loss, most),
    )


def _judge(
    name: str, what: str, now: AccuracyReport | LatencyReport, found: Found | None, limit: float
) -> Gate:
    if found is None:
        sentence = f"The earlier report has no {what} of {now.precision} on {now.backend}."
        return gate_of(now, name, limit, sentence)
    if found.unlike:
        unlike = "; ".join(found.unlike)
        sentence = f"{what.capitalize()} cannot be held against the earlier report: {unlike}."
        return gate_of(now, name, limit, sentence)
    words = found.sentence.removesuffix(".")
    sentence = f"Against the earlier report: {words[0].lower()}{words[1:]}; {limit:g} allowed"
    if found.low is None or found.high is None:
        return gate_of(now, name, limit, f"{sentence}.", value=found.value)
    bounds, needed = Interval(found.low, found.high), None
    outcome = outcome_of(bounds, limit)
    if outcome == "undecided" and isinstance(now, LatencyReport):
        needed = rounds_needed(bounds, limit, now.iterations)
        sentence += f"; {how_many_runs(needed, ' in both')}"
    return gate_of(now, name, limit, f"{sentence}.", outcome, found.value, bounds, needed)


def latency_change(then: LatencyReport, now: LatencyReport) -> Found:
    """Return how a latency stands to an earlier one."""
    unlike = latency_differences(then, now)
    if not (now.samples_ms and then.samples_ms):
        unlike = (*unlike, "single runs were not kept")
    if unlike:
        return Found(f"Not comparable: {'; '.join(unlike)}.", unlike=unlike)
    ratio = now.latency_ms.p50 / then.latency_ms.p50
    times, interval = f"{ratio:.3f} times the time", unpaired_interval(now, then)
    low, high = interval
    if not math.isfinite(high):
        fewest = too_few_runs(min(now.iterations, then.iterations))
        return Found(f"No difference can be told: {times}, {fewest}.", "no difference", ratio)
    difference = find_difference(interval)
    sentence = f"{difference.capitalize()}: {times}, {low:.3f} to {high:.3f} with 95 % confidence."
    if difference == "no difference":
        seen = 100 * (high / ratio - 1 + TOLERANCE)
        sentence += f" Runs as steady as these show one of {seen:.1f} % or more."
    return Found(sentence, difference, ratio, low, high)


def accuracy_change(then: AccuracyReport, now: AccuracyReport) -> Found:
    """Return how an accuracy stands to an earlier one on the same images."""
    unlike = differences(accuracy_conditions(then), accuracy_conditions(now))
    if unlike:
        return Found(f"Not comparable: {'; '.join(unlike)}.", unlike=unlike)
    lost, (low, high) = loss_since(now, then)
    measure = "accuracy" if now.num_labelled else task_of_report(now).wording.loss
    bounds = f"{low:.2f} to {high:.2f} lost with 95 % confidence each"
    difference: Word = "no difference"
    if low > 0:
        difference, words = "worse", f"Worse: {lost:.2f} points of {measure} lost, {bounds}."
    elif high < 0:
        difference, words = "better", f"Better: {-lost:.2f} points of {measure} gained, {bounds}."
    elif lost == low == high == 0:
        words = "No difference: the same answers, to the last digit."
    else:
        words = f"No difference that so many images show: {lost:.2f} points lost, {bounds}."
    return Found(words, difference, lost, low, high)


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


def latency_conditions(report: LatencyReport) -> Conditions:
    """Return all that decides a latency beside the model: machine, versions, threads.

    The backend is not among them: which is faster may well be asked. Its version is. What the
    images show is not either: a Vision Transformer takes as long for noise. What was timed in turns
    with it is: other sessions in between empty the caches, which can cost a small model a third.
    """
    machine, packages = to_json(report.environment), report.environment.packages
    values: dict[str, Any] = {name: getattr(report, name) for name in _OF_THE_RUN}
    values |= {name: fact for name, fact in machine.items() if name not in _NOT_OF_THE_MACHINE}
    values["in_turns_with"] = sorted(report.interleaved_with)
    values["python"] = report.environment.python.rpartition(".")[0]
    values |= {n: packages[n] for n in _RUNTIMES.get(report.backend, ()) if n in packages}
    if report.is_on_gpu:
        values |= {name: machine[name] for name in _OF_THE_GPU}
    return {name: _word(value) for name, value in values.items()}


def latency_differences(first: LatencyReport, second: LatencyReport) -> tuple[str, ...]:
    """Return what differs between the conditions of two latencies; nothing where all is alike.

    Of two backends the versions say nothing, for they are of different packages, and nor does the
    provider, which only ONNX Runtime has.
    """
    conditions = [latency_conditions(report) for report in (first, second)]
    if first.backend != second.backend:
        of_one = {package for packages in _RUNTIMES.values() for package in packages} | {"provider"}
        conditions = [{n: v for n, v in c.items() if n not in of_one} for c in conditions]
    return differences(*conditions)


def accuracy_conditions(report: AccuracyReport) -> Conditions:
    """Return all that decides an accuracy beside the model: the images, and their labels."""
    return {"images": report.data_digest[:12], "labelled": str(report.num_labelled)}


def differences(first: Conditions, second: Conditions) -> tuple[str, ...]:
    """Return what differs, ready to read: ``threads 2, not 4``; nothing where all is alike."""
    return tuple(
        f"{name.replace('_', ' ')} {second.get(name, 'unknown')}, not {first.get(name, 'unknown')}"
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    )


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)
