"""``edgevit bench``: the latency of one precision."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import (
    ABOVE_0,
    AT_LEAST_0,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    bundle_argument,
    json_option,
    max_bad_option,
    option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import echo, print_json, print_tables, write_json
from edge_vit.cli.outputs import ANY_FILE, deliver
from edge_vit.data.bad_images import MaxBad
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import Precision

if TYPE_CHECKING:
    from edge_vit.measure.results import LatencyReport

SCENARIOS = ("saturated", "paced")


@click.command("bench")
@bundle_argument
@option(
    "--scenario",
    "How runs follow each other. paced leaves the gaps of a camera, in which a GPU clocks down.",
    SCENARIOS,
    "saturated",
)
@option("--fps N", "Runs per second of --scenario paced.  [default: 30]", ABOVE_0)
@option(
    "--batch-size N",
    "Images per run.  [default: 1, or the graph's fixed batch]",
    POSITIVE,
)
@option(
    "--iterations N",
    "Timed runs, at least.  [default: 200; 1 with --duration]",
    POSITIVE,
)
@option(
    "--duration S",
    "Seconds that the timed runs take, at least.",
    AT_LEAST_0,
    0,
    show_default=False,
    name="duration_s",
)
@option("--warmup N", "Runs before them that do not count.", NOT_NEGATIVE, 10)
@option(
    "--image PATH",
    "Image or folder to time on, from decoding to the answer.  [default: noise]",
    PATH,
)
@option(
    "--cold-start/--no-cold-start",
    "Also measure the first answer of a process that has done nothing else.",
    default=True,
    show_default=True,
)
@max_bad_option
@precision_option
@functools.partial(session_options, wait="spin")
@option("-o, --output FILE", "Write the result as JSON to FILE too, for edgevit compare.", ANY_FILE)
@json_option
@click.pass_obj
def command(
    log: CommandLog,
    /,
    bundle: Path,
    scenario: str,
    fps: float | None,
    image: Path | None,
    cold_start: bool,
    max_bad: MaxBad,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    output: Path | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Measure the latency of one precision.

    To compare precisions, take edgevit verify: it times them in turns, so that a busy machine
    slows all alike.
    """
    from edge_vit.measure.bench import benchmark
    from edge_vit.measure.latency import Plan

    if fps is not None and scenario != "paced":
        raise click.UsageError(f"--fps is of --scenario paced, got {scenario}")
    with log.progress() as progress:
        report = benchmark(
            bundle,
            precision,
            backend,
            options,
            Plan(scenario, fps=fps or 30.0, **plan),
            images=image,
            has_cold_start=cold_start,
            max_bad=max_bad,
            progress=progress,
        )
    deliver(
        lambda: _print(report, as_json=as_json),
        lambda: write_json(report, output) if output else None,
    )


def _print(report: LatencyReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from edge_vit.report.details import latency_details
    from edge_vit.report.terminal import grid_table, latency_table

    print_tables(latency_table([report]), *map(grid_table, latency_details([report])))
    echo(f"· {report.scenario}: {report.label}. Timed on {report.timed_on}.")
