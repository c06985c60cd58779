"""``edgevit explain``: attention maps of fp32 and the quantized model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_vit.bundle import Bundle
from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import deliver, json_text, print_grids, print_json, write_file
from edge_vit.data.folder import expand_folders
from edge_vit.data.images import FileSource
from edge_vit.errors import SpecError
from edge_vit.formats import REFERENCE
from edge_vit.runtime import SessionOptions
from edge_vit.spec import Precision
from edge_vit.spec.samples import refuse_samples

if TYPE_CHECKING:
    from edge_vit.explain.values import Explanation


@click.command("explain")
@params.bundle_argument
@params.images_argument
@params.precision_option
@params.threads_option
@params.outputs_option(
    "Maps over the images, as an .html page; .json has the numbers.",
    params.OutputFile(".html", ".json", html_needs=("jinja2",)),
)
@params.json_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    images: tuple[Path, ...],
    precision: Precision | None,
    threads: int | None,
    outputs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Draw attention maps of fp32 and the quantized model.

    IMAGE is a file, or a folder, all of whose images are taken. Attention rollout says how much of
    each patch is in the tokens that the answer is read from; two numbers say how alike both maps
    are. Runs on ONNX Runtime.
    """
    from edge_vit.explain.explain import explain

    opened = Bundle.open(bundle)
    refuse_samples(opened.spec, "edgevit explain")
    precision = precision or opened.smallest_precision
    if precision == REFERENCE:
        others = " or ".join(other for other in opened.precisions if other != REFERENCE)
        if others:
            raise SpecError(f"{REFERENCE} is what the others are held against: take {others}")
        raise SpecError(
            f"nothing to hold against {REFERENCE} in {bundle}. "
            f"Run: edgevit calibrate {bundle} --calib DIR"
        )
    paths, notes = expand_folders(images)
    with log.progress() as progress:
        for note in notes:
            progress.note(note)
        found = explain(
            opened, FileSource(paths), precision, options=SessionOptions(threads), progress=progress
        )
    name = opened.spec.name
    deliver(
        lambda: _print(found, as_json=as_json),
        *(functools.partial(_write, found, name, path) for path in outputs),
    )


def _print(found: Sequence[Explanation], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    from edge_vit.report.attention import attention_grid

    print_grids(attention_grid(found))


def _write(found: Sequence[Explanation], name: str, path: Path) -> None:
    if path.suffix == ".json":
        write_file(f"{json_text(tuple(found))}\n", path)
        return
    from edge_vit.report.html import render_attention

    write_file(render_attention(found, name), path)
