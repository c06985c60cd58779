"""Reports side by side as tables and words: in the terminal, in Markdown, on the page."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.measure.compare import Comparison, Entry
from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, measured, number, percent, short_digest, significant


def letters(comparison: Comparison) -> dict[str, str]:
    """Return a short sign for each report, in their order: A, B, C…; A1 and so on after Z."""
    names = dict.fromkeys(entry.report for entry in comparison.entries)
    signs = (f"{chr(65 + i % 26)}{i // 26 or ''}" for i in range(len(names)))
    return dict(zip(names, signs, strict=True))


def reports_grid(comparison: Comparison) -> Grid:
    """Return one row per report: which file, which model."""
    first: dict[str, Entry] = {}
    for entry in comparison.entries:
        first.setdefault(entry.report, entry)
    rows = tuple(
        (sign, name, first[name].model or MISSING, short_digest(first[name].bundle_digest) or "–")
        for name, sign in letters(comparison).items()
    )
    return Grid("Reports", ("", "report", "model", "bundle"), rows, 4)


def entries_grid(comparison: Comparison) -> Grid:
    """Return one row per precision and backend of each report, with its numbers."""
    signs = letters(comparison)
    rows = tuple(
        (
            signs[entry.report],
            entry.place,
            significant(entry.p50_ms),
            significant(entry.p99_ms),
            number(entry.throughput_ips, 1),
            percent(entry.top1),
            percent(entry.agreement),
            MISSING if entry.num_runs is None else number(entry.num_runs, 0),
            MISSING if entry.num_images is None else number(entry.num_images, 0),
        )
        for entry in comparison.entries
    )
    columns = (
        *("", "ran", "p50 (ms)", "p99 (ms)", "images/s", "top-1", "same answer"),
        *("runs", "images"),
    )
    return Grid("Measured", columns, rows, 2)


def changes_grid(comparison: Comparison) -> Grid:
    """Return one row per change against the first report; unlike conditions in place of numbers."""
    signs = letters(comparison)
    rows = tuple(
        (
            signs[change.report],
            change.place,
            change.measure,
            change.difference or "not comparable",
            measured(change.value),
            MISSING
            if change.low is None or change.high is None
            else f"{measured(change.low)} – {measured(change.high)}",
            "; ".join(change.unlike) or MISSING,
        )
        for change in comparison.changes
    )
    columns = (
        *("", "ran", "measure", "against A", "ratio, points lost", "95 % interval"),
        "what differs",
    )
    note = (
        "Latency: the median over that of A, and the interval that the noise inside both runs "
        "allows. Accuracy: points lost against A on the same images, for the worst case of which "
        "images they are. Conditions that differ allow no number."
    )
    return Grid("Against A", columns, rows, 4, note)


def conditions_grid(comparison: Comparison) -> Grid:
    """Return the conditions that are not alike everywhere, one row each, one column per report."""
    signs = letters(comparison)
    values: dict[str, dict[str, list[str]]] = {}
    for entry in comparison.entries:
        for name, value in (*entry.conditions.items(), *entry.data.items()):
            seen = values.setdefault(name, {}).setdefault(entry.report, [])
            if value not in seen:
                seen.append(value)
    rows = tuple(
        (name.replace("_", " "), *(", ".join(by.get(report, [MISSING])) for report in signs))
        for name, by in values.items()
        if len({tuple(by.get(report, ())) for report in signs}) > 1
    )
    return Grid("Conditions that differ", ("", *signs.values()), rows, 1 + len(signs))


def all_grids(comparison: Comparison) -> Sequence[Grid]:
    """Return every table that has something to say, in the order of reading."""
    grids = (
        reports_grid(comparison),
        entries_grid(comparison),
        changes_grid(comparison),
        conditions_grid(comparison),
    )
    return [grid for grid in grids if grid.rows]
