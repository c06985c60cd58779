"""Reports side by side: like with like as a ratio with its interval, unlike with what differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edge_vit.errors import SpecError
from edge_vit.measure.earlier import loss_since
from edge_vit.measure.likeness import (
    accuracy_conditions,
    differences,
    latency_conditions,
    latency_differences,
)
from edge_vit.measure.measured import task_of_report
from edge_vit.measure.ratio import (
    TOLERANCE,
    find_difference,
    median_ratio_interval,
    shared_stretches,
)
from edge_vit.measure.results import AccuracyReport, LatencyReport, VerifyReport
from edge_vit.measure.speed_gates import too_few_runs
from edge_vit.spec import Precision

COMPARISON_FORMAT = 1

Word = Literal["slower", "faster", "worse", "better", "no difference"]


@dataclass(frozen=True)
class Measured:
    """What one file says: of any number of precisions and backends.

    Attributes:
        name: of the file or bundle, for people.
        model: its name; empty where the file does not say.
        bundle_digest: of the bundle that was measured; empty where the file does not say.
        latency: reports of latency.
        accuracy: reports of accuracy.
    """

    name: str
    model: str
    bundle_digest: str
    latency: tuple[LatencyReport, ...]
    accuracy: tuple[AccuracyReport, ...]


@dataclass(frozen=True)
class Entry:
    """One precision on one backend of one report: a point of the plot, a column of the table.

    Attributes:
        report: the name of the report.
        p50_ms: median latency; None where the report has no latency, as all of the next.
        p99_ms: None too where too few runs were timed.
        throughput_ips: images per second.
        num_runs: timed.
        top1: share of labelled images; None without labels, or where the report has no accuracy.
        agreement: share of images with the same first answer as fp32, likewise.
        num_images: evaluated.
        conditions: of the latency, by name: what has to be alike.
        data: conditions of the accuracy, likewise.
    """

    report: str
    model: str
    bundle_digest: str
    backend: str
    precision: Precision
    p50_ms: float | None
    p99_ms: float | None
    throughput_ips: float | None
    num_runs: int | None
    top1: float | None
    agreement: float | None
    num_images: int | None
    conditions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Precision and backend."""
        return f"{self.precision} {self.backend}"


@dataclass(frozen=True)
class Change:
    """How one entry stands to its counterpart in the first report.

    Attributes:
        report: of the entry.
        place: precision and backend of the entry.
        base: the first report.
        base_place: of the counterpart.
        measure: ``latency`` or ``accuracy``.
        difference: what can be said; None where conditions are unlike.
        value: ratio of the medians, or points of accuracy lost; None where conditions are unlike.
        low: lower end of its 95 % interval.
        high: upper end.
        unlike: the conditions that differ.
        sentence: the same in plain words.
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


_Key = tuple[str, Precision]


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
    changes = [change for other in others for change in _changes(base, other)]
    return Comparison(
        tuple(entry for report in reports for entry in _entries(report)), tuple(changes)
    )


def _entries(report: Measured) -> Iterable[Entry]:
    timed = {(r.backend, r.precision): r for r in report.latency}
    judged = {(r.backend, r.precision): r for r in report.accuracy}
    for key in dict.fromkeys((*timed, *judged)):
        latency, accuracy = timed.get(key), judged.get(key)
        yield Entry(
            report=report.name,
            model=report.model,
            bundle_digest=report.bundle_digest,
            backend=key[0],
            precision=key[1],
            p50_ms=latency.latency_ms.p50 if latency else None,
            p99_ms=_p99(latency) if latency else None,
            throughput_ips=latency.throughput_ips if latency else None,
            num_runs=latency.iterations if latency else None,
            top1=accuracy.top1 if accuracy else None,
            agreement=accuracy.agreement if accuracy else None,
            num_images=accuracy.num_images if accuracy else None,
            conditions=latency_conditions(latency) if latency else {},
            data=accuracy_conditions(accuracy) if accuracy else {},
        )


def _p99(report: LatencyReport) -> float | None:
    known = [p.ms for p in report.percentiles if p.percent == 99]
    if known:
        return known[0]
    return report.latency_ms.p99 if report.iterations >= 1000 else None  # formats without it


def _changes(base: Measured, other: Measured) -> Iterable[Change]:
    timed = {(r.backend, r.precision): r for r in base.latency}
    for latency in other.latency:
        key = _counterpart((latency.backend, latency.precision), timed)
        if key is not None:
            yield _latency_change(base.name, timed[key], other.name, latency)
    judged = {(r.backend, r.precision): r for r in base.accuracy}
    for accuracy in other.accuracy:
        key = _counterpart((accuracy.backend, accuracy.precision), judged)
        if key is not None:
            yield _accuracy_change(base.name, judged[key], other.name, accuracy)


def _counterpart(wanted: _Key, there: Mapping[_Key, object]) -> _Key | None:
    if wanted in there:
        return wanted
    same = [key for key in there if key[1] == wanted[1]]
    if len(same) == 1:
        return same[0]
    return next(iter(there)) if len(there) == 1 else None


def _latency_change(base: str, then: LatencyReport, name: str, now: LatencyReport) -> Change:
    places = (f"{then.precision} {then.backend}", f"{now.precision} {now.backend}")
    unlike = latency_differences(then, now)
    if not (now.samples_ms and then.samples_ms):
        unlike = (*unlike, "single runs were not kept")
    if unlike:
        sentence = f"Not comparable: {'; '.join(unlike)}."
        return Change(
            name, places[1], base, places[0], "latency", None, None, None, None, unlike, sentence
        )
    ratio = now.latency_ms.p50 / then.latency_ms.p50
    interval = median_ratio_interval(
        now.samples_ms,
        then.samples_ms,
        paired=False,
        stretches=shared_stretches(now.num_openings, then.num_openings),
    )
    if not math.isfinite(interval.high):
        fewest = min(now.iterations, then.iterations)
        sentence = f"No difference can be told: {ratio:.3f} times the time, {too_few_runs(fewest)}."
        return Change(
            name,
            places[1],
            base,
            places[0],
            "latency",
            "no difference",
            ratio,
            None,
            None,
            (),
            sentence,
        )
    difference = find_difference(interval)
    bounds = f"{interval.low:.3f} to {interval.high:.3f} with 95 % confidence"
    if difference == "no difference":
        seen = 100 * (interval.high / ratio - 1 + TOLERANCE)
        sentence = (
            f"No difference: {ratio:.3f} times the time, {bounds}. Runs as steady as these show "
            f"one of {seen:.1f} % or more."
        )
    else:
        sentence = f"{difference.capitalize()}: {ratio:.3f} times the time, {bounds}."
    return Change(
        name, places[1], base, places[0], "latency", difference, ratio, *interval, (), sentence
    )


def _accuracy_change(base: str, then: AccuracyReport, name: str, now: AccuracyReport) -> Change:
    places = (f"{then.precision} {then.backend}", f"{now.precision} {now.backend}")
    unlike = differences(accuracy_conditions(then), accuracy_conditions(now))
    if unlike:
        sentence = f"Not comparable: {'; '.join(unlike)}."
        return Change(
            name, places[1], base, places[0], "accuracy", None, None, None, None, unlike, sentence
        )
    lost, interval = loss_since(now, then)
    measure = "accuracy" if now.num_labelled else task_of_report(now).wording.loss
    bounds = f"{interval.low:.2f} to {interval.high:.2f} lost with 95 % confidence each"
    difference: Word = "no difference"
    if interval.low > 0:
        difference, words = "worse", f"Worse: {lost:.2f} points of {measure} lost, {bounds}."
    elif interval.high < 0:
        difference, words = "better", f"Better: {-lost:.2f} points of {measure} gained, {bounds}."
    elif lost == interval.low == interval.high == 0:
        words = "No difference: the same answers, to the last digit."
    else:
        words = f"No difference that so many images show: {lost:.2f} points lost, {bounds}."
    return Change(
        name, places[1], base, places[0], "accuracy", difference, lost, *interval, (), words
    )
