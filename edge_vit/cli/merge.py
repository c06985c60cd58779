"""``edgevit merge``: the parts of an evaluation put together."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import click

from edge_vit.cli import params
from edge_vit.cli.output import deliver, write_json
from edge_vit.cli.reports import print_accuracy

_LOG = logging.getLogger(__name__)


@click.command("merge")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=params.PATH)
@params.outputs_option("Write the result as JSON to FILE too.")
@params.json_option
def command(files: tuple[Path, ...], outputs: tuple[Path, ...], as_json: bool) -> None:
    """Put the parts of an evaluation together.

    FILE... are all that edgevit eval --shard 1/N to N/N wrote with -o, in any order. The result is
    the same, to the last digit, as that of one evaluation of all the images.
    """
    from edge_vit.measure.accuracy_report import report_of
    from edge_vit.measure.partial import merge_partials, read_partial

    report = report_of(merge_partials([read_partial(path) for path in files]))
    for note in report.notes:
        _LOG.info("%s", note)
    deliver(
        lambda: print_accuracy(report, as_json=as_json),
        *(functools.partial(write_json, report, path) for path in outputs),
    )
