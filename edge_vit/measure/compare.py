"""Reports side by side: like with like as a ratio with its interval, unlike with what differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edge_vit.errors import SpecError
from edge_vit.measure.earlier import (
    Found,
    Report,
    Word,
    accuracy_change,
    accuracy_conditions,
    latency_change,
    latency_conditions,
)
from edge_vit.measure.results import AccuracyReport, LatencyReport, VerifyReport
from edge_vit.spec import Precision
from edge_vit.values import WRITTEN_IF_SET

COMPARISON_FORMAT = 1


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

    Figures of the latency or the accuracy are None where the report has none.
    """

    report: str
    model: str
    bundle_digest: str
    backend: str
    precision: Precision
    p50_ms: float | None = None
    p99_ms: float | None = None  # also where too few runs were timed
    throughput_ips: float | None = None
    num_runs: int | None = None
    top1: float | None = None  # also without labels
    agreement: float | None = None
    num_images: int | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)  # that latencies have to share
    data: Mapping[str, str] = field(default_factory=dict)  # that accuracies have to share
    notes: tuple[str, ...] = field(default=(), metadata=WRITTEN_IF_SET)  # on both

    @property
    def place(self) -> str:
        """Precision and backend."""
        return f"{self.precision} {self.backend}"


@dataclass(frozen=True)
class Change:
    """How one entry stands to its counterpart in the first report.

    `value`, its 95 % interval and `difference` are None where conditions are `unlike`.
    """

    report: str
    place: str  # precision and backend
    base: str
    base_place: str
    measure: str
    difference: Word | None
    value: float | None  # the ratio of the medians, or points of accuracy lost
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
                notes=tuple(filter(None, [latency.remark])),
            )
        if isinstance(accuracy, AccuracyReport):
            entry = dataclasses.replace(
                entry,
                top1=accuracy.top1,
                agreement=accuracy.agreement,
                num_images=accuracy.num_images,
                data=accuracy_conditions(accuracy),
                notes=tuple(dict.fromkeys((*entry.notes, *accuracy.notes))),
            )
        yield entry


def _p99(report: LatencyReport) -> float | None:
    known = [p.ms for p in report.percentiles if p.percent == 99]
    if known:
        return known[0]
    return report.latency_ms.p99 if report.iterations >= 1000 else None  # formats without it


def _changes(base: Measured, other: Measured) -> Iterator[Change]:
    for latency in other.latency:
        timed = _counterpart(latency, base.latency)
        if timed is not None:
            yield _change(base, timed, other, latency, "latency", latency_change(timed, latency))
    for accuracy in other.accuracy:
        judged = _counterpart(accuracy, base.accuracy)
        if judged is not None:
            found = accuracy_change(judged, accuracy)
            yield _change(base, judged, other, accuracy, "accuracy", found)


def _counterpart(wanted: Report, there: Sequence[Report]) -> Report | None:
    same = [each for each in there if each.precision == wanted.precision]
    exact = [each for each in same if each.backend == wanted.backend]
    if exact:
        return exact[-1]
    return next((found[0] for found in (same, there) if len(found) == 1), None)


def _change(
    base: Measured, then: Report, other: Measured, now: Report, measure: str, found: Found
) -> Change:
    return Change(
        report=other.name,
        place=f"{now.precision} {now.backend}",
        base=base.name,
        base_place=f"{then.precision} {then.backend}",
        measure=measure,
        **found._asdict(),
    )
