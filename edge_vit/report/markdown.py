"""A report as GitHub-flavoured Markdown: for a step summary, a pull request, a release note."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edge_vit.measure.compare import Comparison
from edge_vit.measure.results import AccuracyReport, VerifyReport
from edge_vit.report import grids
from edge_vit.report.compared import all_grids, letters
from edge_vit.report.conditions import conditions
from edge_vit.report.sites import precision_summary, sites_grid, sites_in_order
from edge_vit.report.wording import MISSING, OUTCOME_WORDS, percent, significant
from edge_vit.spec.table import CalibrationTable

MAX_DISAGREEMENTS = 12

_SIGNS = {"pass": "✅", "fail": "❌", "undecided": "❔", "note": "💬"}
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~!&@])")
"""What Markdown, HTML in it, or the code host would read as more than a character."""


def render_markdown(report: VerifyReport, table: CalibrationTable | None = None) -> str:
    """Return the whole report as text, with the layers of its table; long tables are folded."""
    return "\n".join(_lines(report, table)) + "\n"


def render_comparison_markdown(comparison: Comparison) -> str:
    """Return reports side by side as text."""
    lines = [f"## {len(letters(comparison))} reports side by side", ""]
    lines += [
        f"- {letters(comparison)[change.report]} {change.place}, {change.measure}: "
        f"{escaped(change.sentence)}"
        for change in comparison.changes
    ]
    for grid in all_grids(comparison):
        lines += ["", *_section(grid)]
    return "\n".join(lines) + "\n"


def _lines(report: VerifyReport, table: CalibrationTable | None) -> Iterator[str]:
    verdict = report.verdict
    word = OUTCOME_WORDS[verdict.outcome][1]
    yield f"## {_SIGNS[verdict.outcome]} {escaped(report.model.name)}: {word}"
    yield ""
    yield f"**{escaped(verdict.sentence)}**"
    yield ""
    for outcome, place, name, sentence in grids.verdict_lines(verdict):
        yield f"- {_SIGNS[outcome]} {escaped(place)} `{name}`: {escaped(sentence)}"
    yield ""
    if verdict.gates:
        yield from _folded(grids.gates_grid(verdict))
    if report.latency:
        yield from _section(grids.latency_grid(report.latency))
    if any(not grids.is_reference(accuracy) for accuracy in report.accuracy):
        yield from _section(grids.accuracy_grid(report.accuracy))
        yield from _disagreements(report.accuracy)
    if table is not None and table.sites:
        sites = sites_in_order(table)
        yield escaped(precision_summary(sites)) + "."
        yield ""
        yield from _folded(sites_grid(sites))
    if report.notes:
        yield from ("### Notes", "")
        yield from (f"- {escaped(note)}" for note in report.notes)
        yield ""
    for grid in conditions(report, table):
        yield from _folded(grid)
    yield f"<sub>{escaped(report.bundle)}, {escaped(report.created)}</sub>"


def _section(grid: grids.Grid) -> Iterator[str]:
    yield from (f"### {escaped(grid.title)}", "", *table_lines(grid), "")
    if grid.note:
        yield from (escaped(grid.note), "")


def _folded(grid: grids.Grid) -> Iterator[str]:
    yield from (f"<details><summary>{escaped(grid.title)}</summary>", "", *table_lines(grid), "")
    yield from ("</details>", "")


def _disagreements(reports: Sequence[AccuracyReport]) -> Iterator[str]:
    rows = []
    for report in reports:
        for worst in [] if grids.is_reference(report) else report.worst[:MAX_DISAGREEMENTS]:
            ours, theirs = worst.candidate[:1], worst.reference[:1]
            rows.append(
                (
                    grids.place_of(report),
                    worst.image,
                    worst.label or MISSING,
                    f"{theirs[0].label}, {percent(theirs[0].score, 1)}" if theirs else MISSING,
                    f"{ours[0].label}, {percent(ours[0].score, 1)}" if ours else MISSING,
                    significant(worst.divergence),
                )
            )
    if rows:
        columns = ("precision", "image", "true label", "reference", "answer", "difference")
        yield from _folded(grids.Grid("Where the answers differ most", columns, tuple(rows), 5))


def table_lines(grid: grids.Grid) -> Iterator[str]:
    """Yield `grid` as a Markdown table: numbers to the right."""
    rules = ["---" if i < grid.num_words else "---:" for i in range(len(grid.columns))]
    for row in (grid.columns, rules, *grid.rows):
        cells = row if row is rules else map(escaped, row)
        yield f"| {' | '.join(cells)} |"


def escaped(words: str) -> str:
    """Return `words` as Markdown that shows them as they are, on one line."""
    return _ACTIVE.sub(r"\\\1", " ".join(words.split()))
