"""``edgevit eval``: the answers of one precision against those of fp32."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from edge_vit.bundle import TABLE, Bundle
from edge_vit.cli.options import (
    bundle_argument,
    data_option,
    json_option,
    num_images_option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import print_json, print_tables, without_thumbnails
from edge_vit.cli.talk import Talk
from edge_vit.images import open_image_source
from edge_vit.runtime.session import SessionOptions, open_session
from edge_vit.spec import Precision


@click.command("eval")
@bundle_argument
@data_option
@num_images_option
@precision_option
@session_options
@json_option
@click.pass_obj
def command(
    talk: Talk,
    bundle: Path,
    data: Path,
    num_images: int | None,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Compare the answers of a precision with those of fp32."""
    from edge_vit.measure.accuracy import evaluate

    opened = Bundle.open(bundle)
    precision = precision or opened.smallest_precision
    source = open_image_source(data, opened.spec.labels, num_images)
    calibrated_on = opened.read_table().image_digests if opened.has(TABLE) else ()
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(open_session(opened, "fp32", backend, options))
        candidate = reference
        if precision != "fp32":
            candidate = stack.enter_context(open_session(opened, precision, backend, options))
        reports = evaluate(
            reference,
            [candidate],
            opened.spec,
            source,
            data=str(data),
            calibration_digests=frozenset(calibrated_on),
            progress=stack.enter_context(talk.progress()),
        )
    if as_json:
        print_json(without_thumbnails(reports)[0])
        return
    from edge_vit.report.terminal import accuracy_table

    print_tables(accuracy_table(reports))
