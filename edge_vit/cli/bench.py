"""``edgevit bench``: the latency of one precision."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.bad_images import MaxBad
from edge_vit.cli.options import (
    NOT_NEGATIVE,
    POSITIVE,
    bundle_argument,
    json_option,
    max_bad_option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import echo, print_json, print_tables
from edge_vit.cli.outputs import ANY_FILE, deliver
from edge_vit.cli.talk import Talk
from edge_vit.files import write_atomically
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import Precision
from edge_vit.values import to_json

if TYPE_CHECKING:
    from edge_vit.measure.results import LatencyReport

SCENARIOS = ("saturated", "paced", "single-stream", "multi-stream", "offline")

_LOG = logging.getLogger(__name__)


@click.command("bench")
@bundle_argument
@click.option(
    "--scenario",
    type=click.Choice(SCENARIOS),
    default="saturated",
    show_default=True,
    help="How runs follow each other. paced leaves the gaps of a camera, in which a GPU clocks "
    "down; the last three are MLPerf's definitions, shortened.",
)
@click.option(
    "--fps",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Runs per second of --scenario paced.  [default: 30]",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=POSITIVE,
    help="Images per run.  [default: what the scenario has: 1, or 8; or the graph's fixed batch]",
)
@click.option(
    "--iterations",
    metavar="N",
    type=POSITIVE,
    help="Timed runs, at least.  [default: 200; multi-stream 1000, offline 100; 1 with --duration]",
)
@click.option(
    "--duration",
    "duration_s",
    metavar="S",
    type=click.FloatRange(min=0),
    default=0,
    help="Seconds that the timed runs take, at least.",
)
@click.option(
    "--warmup",
    metavar="N",
    type=NOT_NEGATIVE,
    default=10,
    show_default=True,
    help="Runs before them that do not count.",
)
@click.option(
    "--image",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Image or folder to time on, from decoding to the answer.  [default: noise]",
)
@click.option(
    "--cold-start/--no-cold-start",
    default=True,
    show_default=True,
    help="Also measure the first answer of a process that has done nothing else.",
)
@max_bad_option
@precision_option
@functools.partial(session_options, wait="spin")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=ANY_FILE,
    help="Write the result as JSON to FILE too, for edgevit compare.",
)
@json_option
@click.pass_obj
def command(
    talk: Talk,
    bundle: Path,
    scenario: str,
    fps: float | None,
    batch_size: int | None,
    iterations: int | None,
    duration_s: float,
    warmup: int,
    image: Path | None,
    cold_start: bool,
    max_bad: MaxBad,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the latency of one precision.

    To compare precisions, take edgevit verify: it times them in turns, so that a busy machine
    slows all alike.
    """
    from edge_vit.measure.bench import benchmark
    from edge_vit.measure.scenarios import Plan

    if fps is not None and scenario != "paced":
        raise click.UsageError(f"--fps is of --scenario paced, got {scenario}")
    plan = Plan(scenario, batch_size, iterations, duration_s, warmup, fps or 30.0)  # type: ignore[arg-type]
    with talk.progress() as progress:
        report = benchmark(
            bundle,
            precision,
            backend,
            options,
            plan,
            images=image,
            has_cold_start=cold_start,
            max_bad=max_bad,
            progress=progress,
        )
    deliver(
        lambda: _print(report, as_json=as_json),
        lambda: _write(report, output) if output else None,
    )


def _write(report: LatencyReport, path: Path) -> None:
    write_atomically(path, (json.dumps(to_json(report), indent=1) + "\n").encode())
    _LOG.info("Report: %s", path)


def _print(report: LatencyReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from edge_vit.report.details import latency_details
    from edge_vit.report.terminal import grid_table, latency_table

    print_tables(latency_table([report]), *map(grid_table, latency_details([report])))
    echo(f"· {report.scenario}: {report.label}. Timed on {report.timed_on}.")
