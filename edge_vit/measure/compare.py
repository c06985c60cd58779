"""Reports side by side: like with like as a ratio with its interval, unlike with what differs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from edge_vit.errors import SpecError
from edge_vit.measure.earlier import loss_since
from edge_vit.measure.likeness import (
    accuracy_conditions,
    differences,
    latency_conditions,
    latency_differences,
)
from edge_vit.measure.measured import task_of_report
from edge_vit.measure.ratio import TOLERANCE, find_difference, unpaired_interval
from edge_vit.measure.results import AccuracyReport, LatencyReport, VerifyReport
from edge_vit.measure.speed_gates import too_few_runs
from edge_vit.spec import Precision

COMPARISON_FORMAT = 1

Word = Literal["slower", "faster", "worse", "better", "no difference"]
Report = TypeVar("Report", AccuracyReport, LatencyReport)


@dataclass(frozen=True)
class Measured:
    """What one file says of any number of precisions and backends; "" is what it does not say."""

    name: str
    model: str
    bundle_digest: str
    latency: tuple[LatencyReport, ...]
    accuracy: tuple[AccuracyReport, ...]


@dataclass(frozen=True)
class Entry:
    """One precision on one backend of one report: a point of the plot, a row of the table.

    Figures of the latency or the accuracy are None where the report has none; `p99_ms` also where
    too few runs were timed, `top1` also without labels. `conditions` are those of the latency,
    `data` those of the accuracy: what has to be alike.
    """

    report: str
    model: str
    bundle_digest: str
    backend: str
    precision: Precision
    p50_ms: float | None = None
    p99_ms: float | None = None
    throughput_ips: float | None = None
    num_runs: int | None = None
    top1: float | None = None
    agreement: float | None = None
    num_images: int | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Precision and backend."""
        return f"{self.precision} {self.backend}"


@dataclass(frozen=True)
class Change:
    """How one entry stands to its counterpart in the first report.

    `value` is the ratio of the medians, or points of accuracy lost, with its 95 % interval; None
    where conditions are `unlike`, as is `difference`. Both places are precision and backend.
    """

    report: str
    place: str
    base: str
    base_place: str
    measure: str
    difference: Word | None
    value: float | None
    low: float | None
    high: float | None
    unlike: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Comparison:
    """Any number of reports, each held against the first."""

    entries: tuple[Entry, ...]
    changes: tuple[Change, ...]
    format: int = COMPARISON_FORMAT

    @property
    def is_alike(self) -> bool:
        """Whether everything that was held against the first report could be."""
        return not any(change.unlike for change in self.changes)


def measured_of(report: VerifyReport, name: str) -> Measured:
    """Return what `report` says, under `name`."""
    return Measured(name, report.model.name, report.bundle_digest, report.latency, report.accuracy)


def compare(reports: Sequence[Measured]) -> Comparison:
    """Return `reports` side by side, each held against the first.

    An entry is held against the same precision on the same backend; where the first report has
    none, against the same precision; where it has but one entry, against that.
    """
    if len(reports) < 2:
        raise SpecError(f"reports to compare: got {len(reports)}, expected at least 2")
    base, *others = reports
    return Comparison(
        tuple(entry for report in reports for entry in _entries(report)),
        tuple(change for other in others for change in _changes(base, other)),
    )


def _entries(report: Measured) -> Iterator[Entry]:
    timed, judged = (
        {(r.backend, r.precision): r for r in of} for of in (report.latency, report.accuracy)
    )
    for backend, precision in dict.fromkeys((*timed, *judged)):
        entry = Entry(report.name, report.model, report.bundle_digest, backend, precision)
        latency, accuracy = timed.get((backend, precision)), judged.get((backend, precision))
        if isinstance(latency, LatencyReport):
            entry = dataclasses.replace(
                entry,
                p50_ms=latency.latency_ms.p50,
                p99_ms=_p99(latency),
                throughput_ips=latency.throughput_ips,
                num_runs=latency.iterations,
                conditions=latency_conditions(latency),
            )
        if isinstance(accuracy, AccuracyReport):
            entry = dataclasses.replace(
                entry,
                top1=accuracy.top1,
                agreement=accuracy.agreement,
                num_images=accuracy.num_images,
                data=accuracy_conditions(accuracy),
            )
        yield entry


def _p99(report: LatencyReport) -> float | None:
    known = [p.ms for p in report.percentiles if p.percent == 99]
    if known:
        return known[0]
    return report.latency_ms.p99 if report.iterations >= 1000 else None  # formats without it


def _changes(base: Measured, other: Measured) -> Iterator[Change]:
    for latency in other.latency:
        then = _counterpart(latency, base.latency)
        if then is not None:
            unlike = latency_differences(then, latency)
            if not (latency.samples_ms and then.samples_ms):
                unlike = (*unlike, "single runs were not kept")
            yield _change(base, then, other, latency, "latency", unlike)
    for accuracy in other.accuracy:
        earlier = _counterpart(accuracy, base.accuracy)
        if earlier is not None:
            unlike = differences(accuracy_conditions(earlier), accuracy_conditions(accuracy))
            yield _change(base, earlier, other, accuracy, "accuracy", unlike)


def _counterpart(wanted: Report, there: Sequence[Report]) -> Report | None:
    same = [each for each in there if each.precision == wanted.precision]
    exact = [each for each in same if each.backend == wanted.backend]
    if exact:
        return exact[-1]
    return next((found[0] for found in (same, there) if len(found) == 1), None)


def _change(
    base: Measured,
    then: Report,
    other: Measured,
    now: Report,
    measure: str,
    unlike: tuple[str, ...],
) -> Change:
    difference: Word | None = None
    value = low = high = None
    sentence = f"Not comparable: {'; '.join(unlike)}."
    if not unlike:
        if isinstance(now, LatencyReport) and isinstance(then, LatencyReport):
            difference, value, low, high, sentence = _latency_change(then, now)
        elif isinstance(now, AccuracyReport) and isinstance(then, AccuracyReport):
            difference, value, low, high, sentence = _accuracy_change(then, now)
    return Change(
        report=other.name,
        place=f"{now.precision} {now.backend}",
        base=base.name,
        base_place=f"{then.precision} {then.backend}",
        measure=measure,
        difference=difference,
        value=value,
        low=low,
        high=high,
        unlike=unlike,
        sentence=sentence,
    )


_Found = tuple[Word, float, float | None, float | None, str]


def _latency_change(then: LatencyReport, now: LatencyReport) -> _Found:
    ratio = now.latency_ms.p50 / then.latency_ms.p50
    times, interval = f"{ratio:.3f} times the time", unpaired_interval(now, then)
    low, high = interval
    if not math.isfinite(high):
        fewest = too_few_runs(min(now.iterations, then.iterations))
        sentence = f"No difference can be told: {times}, {fewest}."
        return "no difference", ratio, None, None, sentence
    difference = find_difference(interval)
    sentence = f"{difference.capitalize()}: {times}, {low:.3f} to {high:.3f} with 95 % confidence."
    if difference == "no difference":
        seen = 100 * (high / ratio - 1 + TOLERANCE)
        sentence += f" Runs as steady as these show one of {seen:.1f} % or more."
    return difference, ratio, low, high, sentence


def _accuracy_change(then: AccuracyReport, now: AccuracyReport) -> _Found:
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
    return difference, lost, low, high, words
