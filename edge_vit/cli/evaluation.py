"""What the commands that evaluate share: how an accuracy report is printed and written."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edge_vit.cli.output import echo, print_json, print_tables, without_thumbnails

if TYPE_CHECKING:
    from edge_vit.measure.partial import PartialAccuracy
    from edge_vit.measure.results import AccuracyReport

_LOG = logging.getLogger(__name__)


def print_accuracy(report: AccuracyReport, *, as_json: bool) -> None:
    """Print `report` on stdout, as a table or as JSON without pictures."""
    if as_json:
        print_json(without_thumbnails([report])[0])
        return
    from edge_vit.report.details import drops_grid
    from edge_vit.report.grids import is_reference
    from edge_vit.report.task_grids import task_grids
    from edge_vit.report.terminal import accuracy_table, grid_table
    from edge_vit.report.wording import OUTCOME_WORDS

    grids = [] if is_reference(report) else [drops_grid([report]), *task_grids(report)]
    print_tables(accuracy_table([report]), *(grid_table(grid) for grid in grids if grid.rows))
    for finding in report.findings:
        echo(f"{' '.join(OUTCOME_WORDS[finding.outcome])}: {finding.sentence}")


def print_part(totals: PartialAccuracy, path: Path, *, as_json: bool) -> None:
    """Print what one part of an evaluation holds, and what to do with it."""
    index, count = totals.part
    num_images = totals.tally.num_images
    if as_json:
        print_json({"file": str(path), "part": totals.part, "num_images": num_images})
        return
    echo(f"{path}: part {index} of {count}, {num_images:,} images")
    _LOG.info("When all %d are there: edgevit merge FILE...", count)
