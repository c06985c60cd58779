"""Tables of what only some tasks have: each label of a multi-label model, each numeric score."""

from __future__ import annotations

from edge_vit.measure.results import AccuracyReport
from edge_vit.report.grids import Grid, longest, place_of
from edge_vit.report.wording import MISSING, number, percent, significant

MAX_LABELS = 20


def task_grids(report: AccuracyReport) -> tuple[Grid, ...]:
    """Return the tables of the report's task that have rows; none of classes and features."""
    return tuple(grid for grid in (labels_grid(report), scores_grid(report)) if grid.rows)


def labels_grid(report: AccuracyReport) -> Grid:
    """Return the labels whose decision changed on most images, one per row."""
    ordered = sorted(report.per_label, key=lambda each: (each.agreement, each.index))
    rows = [
        (
            each.label,
            number(each.reference_on, 0),
            number(each.candidate_on, 0),
            percent(each.agreement),
        )
        for each in ordered
    ]
    columns = ("label", "on, reference", f"on, {report.precision}", "same decision")
    title = f"Labels, {place_of(report)}: most changed first"
    return longest(title, columns, rows, MAX_LABELS, "labels")


def scores_grid(report: AccuracyReport) -> Grid:
    """Return the error of each score, one per row."""
    rows = tuple(
        (
            each.label,
            significant(each.mean_error),
            significant(each.spread),
            f"{100 * each.mean_error / each.spread:.2f}" if each.spread else MISSING,
            percent(each.same_side),
        )
        for each in report.scores
    )
    columns = ("score", "mean error", "spread of the reference", "error (%)", "same side")
    return Grid(f"Scores, {place_of(report)}", columns, rows)
