"""Results: tables and JSON on stdout, and files."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_vit.cli.group import write_stdout
from edge_vit.files import write_atomically
from edge_vit.printable import escape_json, printable
from edge_vit.values import to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edge_vit.measure.results import AccuracyReport
    from edge_vit.report.grids import Grid
    from edge_vit.spec.table import CalibrationTable

_LOG = logging.getLogger(__name__)
_WIDTH_OF_A_FILE = 140  # wide enough for every table


def deliver(*steps: Callable[[], object] | None) -> None:
    """Take every step, such as printing and writing, even where an earlier one fails.

    Raises:
        Exception: the first failure, after all were tried; the others are logged.
    """
    failures: list[Exception] = []
    for step in filter(None, steps):
        try:
            step()
        except Exception as error:
            failures.append(error)
    for other in failures[1:]:
        _LOG.error("%s", other)
    if failures:
        raise failures[0]


def json_text(value: Any, *, ascii_only: bool = False) -> str:
    """Return `value`, dataclasses included, as JSON without control characters."""
    text = json.dumps(to_json(value), indent=1, ensure_ascii=False)
    return escape_json(text, ascii_only=ascii_only)


def print_json(value: Any) -> None:
    """Print `value`, dataclasses included, as JSON that survives every terminal's encoding."""
    echo(json_text(value, ascii_only=True))


def echo(text: object, *, nl: bool = True, **style: Any) -> None:
    """Print `text`, and a newline unless `nl` is false; `style` is that of `click.style`."""
    with write_stdout():
        click.secho(printable(str(text)), nl=nl, **style)


def print_grids(*grids: Grid) -> None:
    """Print tables of words, as `print_tables` does."""
    from edge_vit.report.terminal import grid_table

    print_tables(*map(grid_table, grids))


def echo_forecast(table: CalibrationTable) -> None:
    """Print what INT8 by `table` may come to on other images, or that it is undecided."""
    if text := table.forecast_text:
        echo(f"forecast of the SQNR of INT8: {text}")


def print_tables(*renderables: RenderableType, least_width: int = 0) -> None:
    """Print rich renderables, as wide as the terminal and no narrower than `least_width`."""
    from edge_vit.cli.log import EscapingConsole

    is_sized = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = EscapingConsole(file=sys.stdout, width=None if is_sized else _WIDTH_OF_A_FILE)
    console.width = max(console.width, least_width)
    with write_stdout():
        console.print(*renderables)


def write_json(value: Any, path: Path) -> None:
    """Write `value` as JSON to `path`, completely or not at all."""
    write_file(f"{json_text(value)}\n", path, "Report")


def write_file(content: str | bytes, path: Path, what: str = "Written") -> None:
    """Write `content` to `path`, completely or not at all; text without control characters."""
    write_atomically(path, content if isinstance(content, bytes) else printable(content).encode())
    _LOG.info("%s: %s", what, path)


def without_thumbnails(reports: Sequence[AccuracyReport]) -> tuple[AccuracyReport, ...]:
    """Return `reports` without the pictures, which make JSON long and unreadable."""
    return tuple(
        dataclasses.replace(
            report,
            worst=tuple(dataclasses.replace(case, thumbnail_png="") for case in report.worst),
        )
        for report in reports
    )
