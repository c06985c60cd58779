"""Measured values as rich renderables; the command line prints them, nothing here does."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from edge_vit.bundle import RECORD, TABLE, Bundle
from edge_vit.bundle.record import ExportRecord
from edge_vit.formats import look_of
from edge_vit.measure.results import FindingOutcome, Outcome, Verdict
from edge_vit.printable import one_line
from edge_vit.report.conditions import model_grid, preprocess_grid
from edge_vit.report.grids import Grid, recommendation, verdict_lines
from edge_vit.report.sites import blocks_grid, precision_summary, sites_grid, sites_in_order
from edge_vit.report.wording import MISSING, OUTCOME_WORDS, listing, megabytes, short_digest
from edge_vit.tasks.base import Task
from edge_vit.tasks.prediction import Prediction

OUTCOME_STYLES: dict[Outcome | FindingOutcome, str] = {
    "pass": "green",
    "fail": "red",
    "undecided": "yellow",
    "note": "dim",
}

MAX_SITE_ROWS = 24
"""Up to six blocks every linear layer has its row; longer models have one row per block."""


def grid_table(grid: Grid) -> Table:
    """Return `grid` as a rich table; no cell is read as markup."""
    table = Table(
        *(
            Column(_text(name, _style_of(name)), justify="left" if i < grid.num_words else "right")
            for i, name in enumerate(grid.columns)
        ),
        title=_text(grid.title, "bold"),
        caption=_text(grid.note) if grid.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for row in grid.rows:
        table.add_row(*(_text(cell, _style_of(cell)) for cell in row))
    return table


def _text(words: str, style: str = "") -> Text:
    """Return `words` with control characters written out first, so that columns stay aligned."""
    return Text(one_line(words), style)


def _style_of(words: str) -> str:
    """Return the colour of a precision where `words` begin with one, else none."""
    return look_of(words.partition(" ")[0]).console


def predictions_table(predictions: Sequence[Prediction], task: Task) -> Table:
    """Return the prediction for each image, in the columns of `task`."""
    rows = tuple(
        (prediction.image if number == 0 else "", *cells)
        for prediction in predictions
        for number, cells in enumerate(prediction.cells())
    )
    columns = ("image", *task.columns)
    return grid_table(Grid("Predictions", columns, rows, task.num_word_columns))


def verdict_panel(verdict: Verdict) -> Panel:
    """Return the recommendation, findings and gates in plain words: green, red or yellow."""
    gates = Table.grid(padding=(0, 2))
    for outcome, place, name, sentence in verdict_lines(verdict):
        words = Text(" ".join(OUTCOME_WORDS[outcome]), OUTCOME_STYLES[outcome])
        where = _text(place, _style_of(place))
        gates.add_row(words, where, Text(name, "bold"), _text(sentence))
    style = OUTCOME_STYLES[verdict.outcome]
    return Panel(
        Group(_text(verdict.sentence, "bold"), Text(), gates),
        title=Text(" ".join(OUTCOME_WORDS[verdict.outcome]), f"bold {style}"),
        subtitle=Text(f"recommended: {recommendation(verdict)}"),
        title_align="left",
        subtitle_align="right",
        border_style=style,
        padding=(1, 2),
    )


def inspect_tables(bundle: Bundle) -> Group:
    """Return what is in `bundle`: the model, its files, and each layer's precision and why."""
    parts: list[RenderableType] = [
        grid_table(model_grid(bundle.spec)),
        grid_table(preprocess_grid(bundle.spec)),
        grid_table(artifacts_grid(bundle)),
    ]
    record = ExportRecord.from_bytes(bundle.read(RECORD)) if bundle.has(RECORD) else None
    if record is not None and record.weights:
        parts.append(_text(f"{record.checkpoint or 'Checkpoint'}: {record.weights}."))
    parts += [_text(f"At export: {remark}") for remark in (record.remarks if record else ())]
    if not bundle.has(TABLE):
        hint = f"No layer is quantized. Run: edgevit calibrate {bundle.path} --calib DIR"
        return Group(*parts, _text(hint))
    table = bundle.read_table()
    sites = sites_in_order(table)
    grid = sites_grid(sites) if len(sites) <= MAX_SITE_ROWS else blocks_grid(sites)
    summary = (
        f"{precision_summary(sites)}. Recipe {table.recipe.name}, calibrated on "
        f"{table.num_images} images."
    )
    return Group(*parts, grid_table(grid), _text(summary))


def artifacts_grid(bundle: Bundle) -> Grid:
    """Return one row per file: its size, its digest and what made it."""
    rows = tuple(
        (
            name,
            listing([f"{tool} {version}" for tool, version in artifact.made_by.items()]) or MISSING,
            megabytes(artifact.num_bytes),
            short_digest(artifact.sha256),
        )
        for name, artifact in bundle.manifest.artifacts.items()
    )
    note = f"Bundle {bundle.path}, created {bundle.manifest.created}."
    return Grid("Files", ("file", "made by", "size", "SHA-256"), rows, 2, note)
