"""``edgevit export``: a trained model into a bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import (
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    lock_timeout_option,
    max_bad_option,
    num_images_option,
    numbers,
    option,
    recipe_option,
    threads_option,
)
from edge_vit.cli.output import print_tables
from edge_vit.data.bad_images import MaxBad
from edge_vit.data.label_files import read_labels, twin_labels
from edge_vit.spec import Activation, CropMode, Interpolation, Precision
from edge_vit.spec.table import DEFAULT_RECIPE, find_recipe
from edge_vit.tasks import TASKS

if TYPE_CHECKING:
    from edge_vit.export.sources import SourceRequest

_LOG = logging.getLogger(__name__)
_COLOUR = numbers("R,G,B", float, (3,))


@click.command("export")
@click.argument("model", metavar="MODEL")
@option("-o, --output OUT.edgevit", "The bundle to make.", PATH, required=True)
@option("--int8", "Calibrate, and write FP16 and INT8 too.")
@option("--fp16", "Write FP16 too.")
@option(
    "--calib DIR",
    "Images like those of the deployment: INT8 is calibrated on them, parity proven on them.",
    PATH,
)
@num_images_option
@max_bad_option
@recipe_option
@option("--checkpoint FILE", "Weights: safetensors or torch.", PATH)
@option(
    "--weights-key NAME",
    "Which of the checkpoint's weights, such as state_dict_ema; found by itself otherwise.",
)
@option(
    "--checkpoint-size N|H,W",
    "Image size that the checkpoint was trained with, where the file does not tell.",
    numbers("N or H,W", int, (1, 2)),
)
@option("--random-weights", "Take random weights, to try shape and speed.")
@option(
    "--model-arg KEY=VALUE",
    "An argument of the model's own constructor; may be given several times.",
    name="model_args",
    multiple=True,
)
@option(
    "--labels FILE",
    "Class names: one per line, or JSON: a list, an object by index or by name, config.json.",
    PATH,
    name="labels_file",
)
@option("--num-classes N", "Width of the head; 0 for none.", NOT_NEGATIVE)
@option("--task", "What the output means, where the model does not show it.", tuple(TASKS))
@option(
    "--activation",
    "What makes the model's own output probabilities; none where they are that already.",
    get_args(Activation),
)
@option(
    "--threshold VALUE",
    "A label is on from this probability, a score positive from this value.  [default: 0.5 and 0]",
    float,
)
@option("--static-batch N", "Fix the batch size.", POSITIVE)
@option(
    "--image-size N|H,W",
    "Of the model's input; positions are interpolated.",
    numbers("N or H,W", int, (1, 2)),
)
@option("--crop-pct SHARE", "Share of the resized image that the crop keeps.", float)
@option("--crop-mode", "How it is cropped.", get_args(CropMode))
@option("--interpolation", "How it is resized.", get_args(Interpolation))
@option("--mean", "Of each channel, for values from 0 to 1.", _COLOUR)
@option("--std", "Of each channel, for values from 0 to 1.", _COLOUR)
@option("--force", "Replace OUT.edgevit where it exists.")
@threads_option
@lock_timeout_option
@click.pass_obj
def command(
    log: CommandLog,
    /,
    model: str,
    output: Path,
    int8: bool,
    fp16: bool,
    calib: Path | None,
    num_images: int | None,
    max_bad: MaxBad,
    recipe: str | None,
    static_batch: int | None,
    force: bool,
    threads: int | None,
    lock_timeout: float | None,
    **said: Any,
) -> None:
    """Write a trained model into a bundle, on request as INT8 too.

    MODEL is edgevit:FILE.safetensors, timm:NAME, torchvision:NAME, hf:FOLDER_OR_NAME,
    python:package.module:factory or onnx:FILE. The graph is proven equal to the model before
    anything is written.
    """
    precision = _precision(int8, fp16)
    if precision == "int8" and calib is None:
        raise click.UsageError("--int8 needs images to calibrate on. Add --calib DIR")
    if recipe is not None and not int8:
        raise click.UsageError("--recipe is about INT8. Add --int8")
    if num_images is not None and calib is None:
        raise click.UsageError("--num-images is about calibration. Add --calib DIR")

    with log.progress() as progress:
        with progress.step("loading PyTorch"):
            from edge_vit.api import export_bundle

            request = _request(model, **said)
        bundle = export_bundle(
            request,
            output,
            precision=precision,
            calibration=calib,
            num_images=num_images,
            max_bad=max_bad,
            recipe=find_recipe(recipe or DEFAULT_RECIPE.name),
            static_batch=static_batch,
            force=force,
            threads=threads,
            lock_timeout=lock_timeout,
            progress=progress,
        )
    print_artifacts(bundle)
    _LOG.info("%s", _next_step(bundle))


def print_artifacts(bundle: Bundle) -> None:
    """Print each file of `bundle` with its size."""
    from edge_vit.report.terminal import artifacts_grid, grid_table

    print_tables(grid_table(artifacts_grid(bundle)))


def _precision(int8: bool, fp16: bool) -> Precision:
    if int8 and fp16:
        raise click.UsageError("--int8 writes FP16 as well, leave --fp16 out")
    return "int8" if int8 else "fp16" if fp16 else "fp32"


def _request(
    model: str,
    *,
    model_args: tuple[str, ...],
    labels_file: Path | None,
    image_size: tuple[int, ...] | None,
    checkpoint_size: tuple[int, ...] | None,
    **said: Any,
) -> SourceRequest:
    """Return the `SourceRequest` of what was typed."""
    from edge_vit.export.sources import SourceRequest, parse_model_args

    labels = read_labels(labels_file) if labels_file else ()
    for note in twin_labels(labels):
        _LOG.warning("%s", note)
    return SourceRequest(
        model,
        model_args=parse_model_args(model_args),
        labels=labels,
        image_size=_sides(image_size),
        checkpoint_size=_sides(checkpoint_size),
        **said,
    )


def _sides(size: tuple[int, ...] | None) -> tuple[int, int] | None:
    """Return (height, width) of one number or two."""
    return (size[0], size[-1]) if size else None


def _next_step(bundle: Bundle) -> str:
    if "int8" in bundle.precisions or "fp16" in bundle.precisions:
        return f"Next, let it be judged: edgevit verify {bundle.path} --data DIR"
    return (
        f"Next, try it: edgevit run {bundle.path} IMAGE. "
        f"To make it INT8: edgevit calibrate {bundle.path} --calib DIR"
    )
