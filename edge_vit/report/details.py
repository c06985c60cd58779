"""What stands behind the first numbers: intervals, parts of the time, classes, confusions."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.measure.measured import task_of_report
from edge_vit.measure.results import AccuracyReport, ClassAccuracy, LatencyReport, Verdict
from edge_vit.report.grids import TOO_FEW, Grid, is_reference, longest, place_of, side_by_side
from edge_vit.report.task_grids import task_grids
from edge_vit.report.wording import MISSING, number, percent, significant
from edge_vit.spec import ModelSpec

MAX_CLASSES, MAX_CONFUSIONS = 30, 20
"""Rows that are shown; all of them are in the JSON report."""


def latency_details(reports: Sequence[LatencyReport]) -> tuple[Grid, ...]:
    """Return percentiles with their intervals, the parts of the time, and what else was measured.

    Grids that have nothing to say are left out.
    """
    percents = dict.fromkeys(p.percent for report in reports for p in report.percentiles)
    percentiles = []
    for report in reports:
        by_percent = {p.percent: p for p in report.percentiles}
        cells = []
        for percent_ in percents:
            found = by_percent.get(percent_)
            if found is None or found.ms is None:
                cells.append(TOO_FEW)
            else:
                cells.append(f"{significant(found.ms)} {_bounds(found.low_ms, found.high_ms)}")
        percentiles.append((place_of(report), *cells))
    note = (
        "In brackets: 95 % interval by order statistics. p99 takes 1,000 runs, p99.9 10,000; with "
        "fewer nothing is said."
    )
    names = [f"p{p:g} (ms)" for p in percents]
    grids = [
        side_by_side("Percentiles", names, percentiles, note),
        _stages(reports),
        _others(reports),
    ]
    return tuple(grid for grid in grids if grid.rows)


def _bounds(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"({significant(low)} – {significant(high)})"


def _stages(reports: Sequence[LatencyReport]) -> Grid:
    names = dict.fromkeys(stage.name for report in reports for stage in report.stages)
    columns = []
    for report in reports:
        by_name = {stage.name: stage for stage in report.stages}
        columns.append(
            (
                place_of(report),
                *(
                    significant(by_name[name].p50_ms) if name in by_name else MISSING
                    for name in names
                ),
            )
        )
    return side_by_side("Where the time goes (median, ms)", list(names), columns, "")


def _others(reports: Sequence[LatencyReport]) -> Grid:
    measures = (
        *("start of the process (ms)", "loading (ms)", "first run (ms)", "memory peak (MiB)"),
        *("energy per image (J)", "mean power (W)", "variation"),
    )
    columns = []
    for report in reports:
        start, energy = report.cold_start, report.energy
        columns.append(
            (
                place_of(report),
                *(
                    (
                        number(start.process_ms, 0),
                        number(start.load_ms, 0),
                        number(start.first_run_ms, 1),
                        number(start.memory_peak_mib, 0),
                    )
                    if start
                    else (MISSING,) * 4
                ),
                significant(energy.joules_per_image) if energy else MISSING,
                number(energy.mean_w, 1) if energy else MISSING,
                percent(report.variation, 1),
            )
        )
    warned = [f"{place_of(r)}: {w.sentence}" for r in reports for w in r.warnings]
    return side_by_side("Start, energy, steadiness", measures, columns, " ".join(warned))


def accuracy_details(
    reports: Sequence[AccuracyReport], verdict: Verdict, spec: ModelSpec
) -> tuple[Grid, ...]:
    """Return intervals and tests of every drop, then the candidate's classes, labels or scores."""
    compared = [report for report in reports if not is_reference(report)]
    grids = [drops_grid(compared)]
    for report in compared:
        if (report.precision, report.backend) == (
            verdict.candidate,
            verdict.backend or report.backend,
        ):
            grids += [_classes(report), _confusions(report, spec), *task_grids(report)]
    return tuple(grid for grid in grids if grid.rows)


def drops_grid(reports: Sequence[AccuracyReport]) -> Grid:
    """Return the drop of each precision with its intervals and tests, and calibration errors."""
    measures = (
        *("drop (points)", "95 % interval of it", "McNemar's p, exact"),
        *("drop at most, without labels", "calibration error (ECE)", "ECE of the reference"),
        *("KL, 99th percentile (nats)", "cosine, 1st percentile"),
    )
    columns = [
        (
            place_of(report),
            MISSING if report.drop is None else number(100 * report.drop, 2),
            _points(report.drop_interval),
            significant(report.mcnemar_p),
            percent(report.most_drop),
            percent(report.ece),
            percent(report.reference_ece),
            significant(report.kl_p99),
            number(report.cosine_p1, 6) if task_of_report(report).has_direction else MISSING,
        )
        for report in reports
    ]
    note = (
        "McNemar's p: the chance of a split of lost and gained images this uneven if neither were "
        "better."
    )
    return side_by_side("The drop and its uncertainty", measures, columns, note)


def _points(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return MISSING
    return f"{100 * interval[0]:.2f} – {100 * interval[1]:.2f}"


def _classes(report: AccuracyReport) -> Grid:
    def loss(one: ClassAccuracy) -> float:
        return one.reference_top1 - one.top1

    ordered = sorted(report.per_class, key=lambda one: (-loss(one) * one.count, one.index))
    rows = [
        (
            one.label,
            number(one.count, 0),
            percent(one.reference_top1, 1),
            percent(one.top1, 1),
            number(100 * loss(one), 1),
        )
        for one in ordered
    ]
    columns = ("class", "images", "reference", report.precision, "points lost")
    title = f"Classes, {place_of(report)}: most images lost first"
    return longest(title, columns, rows, MAX_CLASSES, "classes")


def _confusions(report: AccuracyReport, spec: ModelSpec) -> Grid:
    before = {(true, said): count for true, said, count in report.reference_confusion}
    pairs = [
        (count - before.get((true, said), 0), count, true, said)
        for true, said, count in report.confusion
        if true != said
    ]
    pairs.sort(key=lambda pair: (-pair[0], -pair[1], pair[2:]))
    rows = [
        (spec.label(true), spec.label(said), number(count, 0), number(count - more, 0))
        for more, count, true, said in pairs
    ]
    columns = ("true class", "taken for", report.precision, "reference")
    title = f"Confusions, {place_of(report)}: most new ones first"
    return longest(title, columns, rows, MAX_CONFUSIONS, "pairs", 2)
