"""``edgevit bench``: the latency of one precision."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import deliver, echo, print_grids, print_json, write_json
from edge_vit.cli.params import option
from edge_vit.data.bad_images import MaxBad
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import Precision

if TYPE_CHECKING:
    from edge_vit.measure.results import LatencyReport

SCENARIOS = ("saturated", "paced")


@click.command("bench")
@params.bundle_argument
@option(
    "--scenario",
    "How runs follow each other. paced leaves the gaps of a camera, in which a GPU clocks down.",
    *(SCENARIOS, "saturated"),
)
@option("--fps RATE", "Runs per second of --scenario paced.  [default: 30]")
@option("--batch-size N", "Images per run.  [default: 1, or the graph's fixed batch]")
@option("--iterations N", "Timed runs, at least.  [default: 200; 1 with --duration]")
@option("--duration S", "Least time of the timed runs.", params.AT_LEAST_0, 0.0, name="duration_s")
@option("--warmup N", "Runs before them that do not count.", params.NOT_NEGATIVE, 10)
@option("--image PATH", "Image or folder to time on, with decoding.  [default: noise]")
@params.max_bad_option
@params.precision_option
@functools.partial(params.session_options, wait="spin")
@params.outputs_option("Write JSON for edgevit compare, too.")
@params.json_option
@click.pass_obj
def command(
    log: CommandLog,
    /,
    bundle: Path,
    scenario: str,
    fps: float | None,
    image: Path | None,
    max_bad: MaxBad,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    outputs: tuple[Path, ...],
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
            max_bad=max_bad,
            progress=progress,
        )
    deliver(
        lambda: _print(report, as_json=as_json),
        *(functools.partial(write_json, report, path) for path in outputs),
    )


def _print(report: LatencyReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from edge_vit.report.details import latency_details
    from edge_vit.report.grids import latency_grid

    print_grids(latency_grid([report]), *latency_details([report]))
    echo(f"· {report.scenario}: {report.label}. Timed on {report.timed_on}.")
