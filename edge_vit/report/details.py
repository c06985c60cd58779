"""What stands behind the first numbers: intervals, parts of the time, classes, labels, scores."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.measure.measured import measures_of, task_of_report
from edge_vit.measure.results import AccuracyReport, ClassAccuracy, LatencyReport, Verdict
from edge_vit.report.grids import (
    TOO_FEW,
    Grid,
    is_of_candidate,
    is_reference,
    longest,
    place_of,
    side_by_side,
)
from edge_vit.report.wording import MISSING, number, percent, significant
from edge_vit.spec import ModelSpec

MAX_CLASSES, MAX_CONFUSIONS, MAX_LABELS = 30, 20, 20
"""Rows that are shown; all of them are in the JSON report."""


def latency_details(reports: Sequence[LatencyReport]) -> tuple[Grid, ...]:
    """Return percentiles with their intervals, the parts of the time, and what else was measured.

    Grids that have nothing to say are left out.
    """
    percentiles, stages, others = [], [], []
    for report in reports:
        shares = {
            f"p{p.percent:g} (ms)": TOO_FEW
            if p.ms is None
            else f"{significant(p.ms)} {_bounds(p.low_ms, p.high_ms)}"
            for p in report.percentiles
        }
        percentiles.append((place_of(report), shares))
        stages.append((place_of(report), {s.name: significant(s.p50_ms) for s in report.stages}))
        others.append((place_of(report), _others(report)))
    note = (
        "In brackets: 95 % interval by order statistics. p99 takes 1,000 runs, p99.9 10,000; with "
        "fewer nothing is said."
    )
    warned = [f"{place_of(r)}: {w.sentence}" for r in reports for w in r.warnings]
    grids = [
        side_by_side("Percentiles", percentiles, note),
        side_by_side("Where the time goes (median, ms)", stages),
        side_by_side("Start, energy, steadiness", others, " ".join(warned)),
    ]
    return tuple(grid for grid in grids if grid.rows)


def _bounds(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    return f"({significant(low)} – {significant(high)})"


def _others(report: LatencyReport) -> dict[str, str]:
    cells, start, energy = {}, report.cold_start, report.energy
    if start:
        cells = {
            "start of the process (ms)": number(start.process_ms, 0),
            "loading (ms)": number(start.load_ms, 0),
            "first run (ms)": number(start.first_run_ms, 1),
            "memory peak (MiB)": number(start.memory_peak_mib, 0),
        }
    if energy:
        cells["energy per image (J)"] = significant(energy.joules_per_image)
        cells["mean power (W)"] = number(energy.mean_w, 1)
    return cells | {"variation": percent(report.variation, 1)}


def accuracy_details(
    reports: Sequence[AccuracyReport], verdict: Verdict, spec: ModelSpec
) -> tuple[Grid, ...]:
    """Return intervals and tests of every drop, then the candidate's classes, labels or scores."""
    compared = [report for report in reports if not is_reference(report)]
    grids = [drops_grid(compared)]
    for report in compared:
        if is_of_candidate(report, verdict):
            grids += [_classes(report), _confusions(report, spec), *task_grids(report)]
    return tuple(grid for grid in grids if grid.rows)


def drops_grid(reports: Sequence[AccuracyReport]) -> Grid:
    """Return the drop of each precision with its interval and test, and calibration errors."""
    columns = []
    for report in reports:
        task = task_of_report(report)
        title, drop, interval = _loss_of(report)
        cells = {
            f"{title} (points)": MISSING if drop is None else number(100 * drop, 2),
            "95 % interval of it": MISSING
            if interval is None
            else f"{100 * interval[0]:.2f} – {100 * interval[1]:.2f}",
            "McNemar's p, exact": significant(report.mcnemar_p),
            "drop at most, without labels": MISSING
            if task.disagreement_is_loss
            else percent(report.most_drop),
            "calibration error (ECE)": percent(report.ece),
            "ECE of the reference": percent(report.reference_ece),
            # of boxes or pixels the divergence is no KL
            "KL, 99th percentile (nats)": MISSING if task.is_drawn else significant(report.kl_p99),
            "cosine, 1st percentile": number(report.cosine_p1, 6)
            if task.has_direction
            else MISSING,
        }
        columns.append((place_of(report), cells))
    note = (
        "McNemar's p: the chance of a split of lost and gained images this uneven if neither were "
        "better."
        if any(report.mcnemar_p is not None for report in reports)
        else ""
    )
    return side_by_side("The drop and its uncertainty", columns, note)


def _loss_of(report: AccuracyReport) -> tuple[str, float | None, tuple[float, float] | None]:
    """Return title, value and interval of what the gate of the accuracy bounds."""
    name = task_of_report(report).loss_of(report.measures)
    if not name:
        return "drop", report.drop, report.drop_interval
    found, title = report.measures[name], measures_of(report.task)[name].title
    if found.low is None or found.high is None:
        return title, found.value, None
    return title, found.value, (found.low, found.high)


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


def task_grids(report: AccuracyReport) -> tuple[Grid, ...]:
    """Return the tables of labels or scores, as far as they have rows."""
    ordered = sorted(report.per_label, key=lambda each: (each.agreement, each.index))
    labels = [
        (
            each.label,
            number(each.reference_on, 0),
            number(each.candidate_on, 0),
            percent(each.agreement),
        )
        for each in ordered
    ]
    scores = tuple(
        (
            each.label,
            significant(each.mean_error),
            significant(each.spread),
            f"{100 * each.mean_error / each.spread:.2f}" if each.spread else MISSING,
            percent(each.same_side),
        )
        for each in report.scores
    )
    heads = ("label", "on, reference", f"on, {report.precision}", "same decision")
    title = f"Labels, {place_of(report)}: most changed first"
    score_heads = ("score", "mean error", "spread of the reference", "error (%)", "same side")
    grids = (
        longest(title, heads, labels, MAX_LABELS, "labels"),
        Grid(f"Scores, {place_of(report)}", score_heads, scores),
    )
    return tuple(grid for grid in grids if grid.rows)
