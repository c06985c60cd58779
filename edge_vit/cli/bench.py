"""``edgevit bench``: the latency of one precision."""

from __future__ import annotations

from pathlib import Path

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.options import (
    NOT_NEGATIVE,
    POSITIVE,
    bundle_argument,
    json_option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import print_json, print_tables
from edge_vit.cli.talk import Talk
from edge_vit.runtime.session import SessionOptions, open_session
from edge_vit.spec import Precision


@click.command("bench")
@bundle_argument
@click.option(
    "--batch-size",
    metavar="N",
    type=POSITIVE,
    help="Images per run.  [default: 1, or the graph's fixed batch]",
)
@click.option(
    "--iterations", metavar="N", type=POSITIVE, default=200, show_default=True, help="Timed runs."
)
@click.option(
    "--warmup",
    metavar="N",
    type=NOT_NEGATIVE,
    default=10,
    show_default=True,
    help="Runs before them that do not count.",
)
@precision_option
@session_options
@json_option
@click.pass_obj
def command(
    talk: Talk,
    bundle: Path,
    batch_size: int | None,
    iterations: int,
    warmup: int,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Measure the latency of one precision.

    To compare precisions, take edgevit verify: it times them in turns, so that a busy machine
    slows all alike.
    """
    from edge_vit.measure.latency import measure_latency

    opened = Bundle.open(bundle)
    precision = precision or opened.smallest_precision
    with (
        open_session(opened, precision, backend, options) as session,
        talk.progress() as progress,
    ):
        report = measure_latency(
            session,
            batch_size=batch_size or opened.spec.static_batch or 1,
            warmup=warmup,
            iterations=iterations,
            progress=progress,
        )
    if as_json:
        print_json(report)
        return
    from edge_vit.report.terminal import latency_table

    print_tables(latency_table([report]))
