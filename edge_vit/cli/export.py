"""``edgevit export``: a trained model into a bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edge_vit.bundle import RECORD, Bundle
from edge_vit.bundle.record import ExportRecord
from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo_forecast, print_grids
from edge_vit.cli.params import option
from edge_vit.data.bad_images import MaxBad
from edge_vit.data.class_names import read_labels
from edge_vit.formats import REFERENCE, NumberFormat, all_formats, find_format, names_below
from edge_vit.spec import Activation, CropMode, Interpolation
from edge_vit.spec.clip import Sampling
from edge_vit.spec.table import DEFAULT_RECIPE, find_recipe
from edge_vit.tasks import TASKS

if TYPE_CHECKING:
    from edge_vit.export.sources import SourceRequest

_LOG = logging.getLogger(__name__)
_COLOUR = params.numbers("R,G,B", float, (3,))
_SIDES = params.numbers("N or H,W", int, (1, 2))


def _format_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` a flag for each number format but the reference, the narrowest first."""
    narrow = [each for each in all_formats() if not each.is_reference]
    for index, each in enumerate(narrow):
        titles = " and ".join(other.title for other in narrow[: index + 1])
        does = f"Calibrate, and write {titles}" if each.needs_images else f"Write {each.title}"
        command = option(f"--{each.name}", f"{does} too.")(command)
    return command


@click.command("export")
@click.argument("model", metavar="MODEL")
@params.output_option("OUT.edgevit", "The bundle to make.", params.PATH)
@_format_flags
@option("--calib DIR", "Images to calibrate on, and to prove the graph on.")
@params.num_images_option
@params.max_bad_option
@params.recipe_option
@option("--checkpoint FILE", "Weights: safetensors or torch.", params.PATH)
@option("--weights-key NAME", "Of a checkpoint with several, such as state_dict_ema.")
@option("--checkpoint-size N|H,W", "Where the file does not tell it.", _SIDES)
@option("--random-weights", "Take random weights, to try shape and speed.")
@option(
    "--model-arg KEY=VALUE", "Of its constructor; repeatable.", name="model_args", multiple=True
)
@option("--labels FILE", "Class names: one per line, or as JSON.", params.PATH, name="labels_file")
@option(
    "--prompt TEXT",
    "Zero-shot: labels in the words of a CLIP, such as 'a photo of a {}'; repeatable.",
    name="prompts",
    multiple=True,
)
@option("--num-classes N", "Width of the head; 0 for none.", params.NOT_NEGATIVE)
@option("--task", "What the output means, where the model does not tell.", params.Names(TASKS))
@option("--output-name NAME", "Of onnx: and python: with several outputs, the one to take.")
@option("--activation", "What makes the output probabilities.", get_args(Activation))
@option(
    "--threshold VALUE",
    "From which a label is on, or a score positive.  [default: 0.5 and 0]",
    float,
)
@option("--nms IOU", "Of two boxes of a class that overlap more, keep the better.", float)
@option("--static-batch N", "Fix the batch size.")
@option("--image-size N|H,W", "Of the model's input; positions are interpolated.", _SIDES)
@option("--crop-pct SHARE", "Share of the resized image that the crop keeps.", float)
@option("--crop-mode", "How it is cropped.", get_args(CropMode))
@option("--interpolation", "How it is resized.", get_args(Interpolation))
@option("--frames N", "Of a clip, where the model does not tell.")
@option("--stride N", "Of a clip: take each Nth frame.")
@option("--sampling", "Of a clip: where in a video its frames lie.", get_args(Sampling))
@option("--mean", "Of each channel, for values from 0 to 1.", _COLOUR)
@option("--std", "Of each channel, for values from 0 to 1.", _COLOUR)
@option("--force", "Replace OUT.edgevit where it exists.")
@params.threads_option
@params.lock_timeout_option
@click.pass_obj
def command(
    log: CommandLog,
    /,
    model: str,
    output: Path,
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
    wanted = _chosen_format(said)
    if wanted.needs_images and calib is None:
        raise click.UsageError(f"--{wanted.name} needs images to calibrate on. Add --calib DIR")
    if recipe is not None and not wanted.needs_images:
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
            precision=wanted.name,
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
    if wanted.needs_images:
        echo_forecast(bundle.read_table())
    _LOG.info("%s", _next_step(bundle))


def print_artifacts(bundle: Bundle) -> None:
    """Print each file of `bundle` with its size."""
    from edge_vit.report.terminal import artifacts_grid

    print_grids(artifacts_grid(bundle))


def _chosen_format(said: dict[str, Any]) -> NumberFormat:
    """Take the flags of formats out of `said`, and return the format that they ask for."""
    chosen = [each for each in all_formats() if said.pop(each.name, False)]
    if len(chosen) > 1:
        raise click.UsageError(
            f"--{chosen[-1].name} writes {chosen[0].title} as well, leave --{chosen[0].name} out"
        )
    return chosen[0] if chosen else find_format(REFERENCE)


def _request(
    model: str,
    *,
    model_args: tuple[str, ...],
    labels_file: Path | None,
    image_size: tuple[int, ...] | None,
    checkpoint_size: tuple[int, ...] | None,
    **said: Any,
) -> SourceRequest:
    from edge_vit.export.sources import SourceRequest, parse_model_args

    labels = read_labels(labels_file) if labels_file else ()
    return SourceRequest(
        model,
        model_args=parse_model_args(model_args),
        labels=labels,
        image_size=_sides(image_size),
        checkpoint_size=_sides(checkpoint_size),
        **said,
    )


def _sides(size: tuple[int, ...] | None) -> tuple[int, int] | None:
    return (size[0], size[-1]) if size else None


def _next_step(bundle: Bundle) -> str:
    takes_images = bundle.spec.takes_images
    if names_below(bundle.precisions):
        data = "DIR" if takes_images else "seeds:1000-1063"
        return f"Next, let it be judged: edgevit verify {bundle.path} --data {data}"
    image = "CLIP" if bundle.spec.preprocess.clip else "IMAGE"
    given, calib = (image, "DIR") if takes_images else ("--seed 0 --draw DIR", "seeds:0-31")
    smaller = f"To make it INT8: edgevit calibrate {bundle.path} --calib {calib}"
    if not ExportRecord.from_bytes(bundle.read(RECORD)).is_quantizable:
        smaller = "INT8 has nothing to quantize: to make it smaller, export it again with --fp16"
    return f"Next, try it: edgevit run {bundle.path} {given}. {smaller}"
