"""Results on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edge_vit.values import to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edge_vit.measure.results import AccuracyReport

_WIDTH_OF_A_FILE = 140  # wide enough for every table


def print_json(value: Any) -> None:
    """Print `value`, dataclasses included, as JSON that survives every terminal's encoding."""
    click.echo(json.dumps(to_json(value), indent=1, ensure_ascii=True))


def print_tables(*renderables: RenderableType) -> None:
    """Print rich renderables, as wide as the terminal."""
    from rich.console import Console

    is_sized = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(file=sys.stdout, width=None if is_sized else _WIDTH_OF_A_FILE)
    console.print(*renderables)


def without_thumbnails(reports: Sequence[AccuracyReport]) -> tuple[AccuracyReport, ...]:
    """Return `reports` without the pictures, which make JSON long and unreadable."""
    return tuple(
        dataclasses.replace(
            report,
            worst=tuple(dataclasses.replace(case, thumbnail_png="") for case in report.worst),
        )
        for report in reports
    )
