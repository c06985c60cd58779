"""``edgevit verify``: every precision measured in one run, and what to ship."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.options import (
    POSITIVE,
    bundle_argument,
    data_option,
    json_option,
    num_images_option,
    session_options,
)
from edge_vit.cli.output import print_json, without_thumbnails
from edge_vit.cli.reports import check_output, keep_reports, print_verdict, write_report
from edge_vit.cli.talk import Talk
from edge_vit.runtime import SessionOptions


@click.command("verify")
@bundle_argument
@data_option
@num_images_option
@click.option(
    "--max-drop",
    metavar="POINTS",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Accuracy that may be lost against fp32, in percent of the images.",
)
@click.option(
    "--min-speedup",
    metavar="RATIO",
    type=click.FloatRange(min=0, min_open=True),
    default=1.05,
    show_default=True,
    help="How many times faster than FP16 on a GPU, than fp32 on a CPU, it has to be.",
)
@click.option(
    "--iterations",
    metavar="N",
    type=POSITIVE,
    default=200,
    show_default=True,
    help="Timed runs of each precision.",
)
@session_options
@click.option(
    "--report/--no-report",
    "keeps_report",
    default=True,
    help="Keep the report in the bundle's reports/, as JSON and as HTML.  [default: keep]",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report to this .html or .json file too.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    data: Path,
    num_images: int | None,
    max_drop: float,
    min_speedup: float,
    iterations: int,
    backend: str,
    options: SessionOptions,
    keeps_report: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Judge every precision on your images, and say what to ship.

    Accuracy and latency come from one run, in turns. Exit status 0: ship it. 3: a gate failed.
    5: undecided, and how many images would decide.
    """
    from edge_vit.measure.verdict import Limits
    from edge_vit.measure.verify import verify

    check_output(output)
    talk: Talk = context.obj
    opened = Bundle.open(bundle)
    with talk.progress() as progress:
        report = verify(
            opened,
            data,
            Limits(max_drop, min_speedup),
            backend=backend,
            options=options,
            iterations=iterations,
            num_images=num_images,
            progress=progress,
        )
    if as_json:
        print_json(dataclasses.replace(report, accuracy=without_thumbnails(report.accuracy)))
    else:
        print_verdict(report)
    if keeps_report:
        keep_reports(report, opened)
    if output is not None:
        write_report(report, opened, output)
    context.exit(report.verdict.exit_status)
