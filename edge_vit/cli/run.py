"""``edgevit run``: what a bundle sees in images."""

from __future__ import annotations

import itertools
import json
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from edge_vit.bundle import Bundle
from edge_vit.cli import params
from edge_vit.cli.group import Failure
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import print_json, print_tables
from edge_vit.cli.params import PATH, option
from edge_vit.data.clips import find_clips
from edge_vit.data.decoding import load_image
from edge_vit.data.folder import expand_folders
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.registry import VIDEO_SUFFIXES
from edge_vit.data.samples import SampleSource
from edge_vit.errors import ImageError, SpecError
from edge_vit.files import refuse_os_errors, write_atomically
from edge_vit.runtime import Prediction, Predictor, SessionOptions
from edge_vit.spec import ModelSpec, Precision
from edge_vit.spec.sampling import with_steps
from edge_vit.tasks import task_of
from edge_vit.tasks.maps.pictures import to_png

_LOG = logging.getLogger(__name__)
_DEFAULT_SEED = 0


@click.command("run")
@params.bundle_argument
@click.argument("images", metavar="[IMAGE...]", nargs=-1, type=PATH)
@option("--top N", "Entries to show for each image.  [default: 5, of boxes 100]")
@option(
    "--min-confidence SHARE",
    "Leave out what has a lower score.  [default: none; of boxes the model's threshold]",
    click.FloatRange(0, 1, max_open=True),
)
@option(
    "--draw DIR",
    "Write each image with its boxes or its map here, as PNG, and a map's values beside it.",
    params.ANY_FOLDER,
)
@option(
    "--coco FILE",
    "Write boxes as COCO results; an image's id is the number in its name, or its place from 1.",
    params.ANY_FILE,
)
@option(
    "--seed N",
    "Of the noise that a diffusion model begins with; repeatable.  [default: 0]",
    click.IntRange(min=0),
    name="seeds",
    multiple=True,
)
@option("--label N", "Index of the class to generate.  [default: by the seed]", click.INT)
@option("--steps N", "Of sampling.  [default: as exported]", click.INT)
@params.precision_option
@params.session_options
@params.json_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    images: tuple[Path, ...],
    top: int | None,
    min_confidence: float | None,
    draw: Path | None,
    coco: Path | None,
    seeds: tuple[int, ...],
    label: int | None,
    steps: int | None,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Say what a bundle sees in images.

    IMAGE is a file, or a folder, all of whose images are taken. For a model of clips it is a video,
    a folder of frames, or a folder of both. An image that cannot be read is
    named on stderr; the others are answered, and the exit status is 1. A model that generates
    takes --seed, or in place of IMAGE seeds:0-31 or a .npz file of its inputs.
    """
    if not images and not seeds and label is None and steps is None:
        raise click.UsageError("Missing argument 'IMAGE...'. A model that generates takes --seed N")
    opened = Bundle.open(bundle)
    task = task_of(opened.spec)
    for name, asked, can, what in (
        ("--draw", draw, task.is_drawn, "nothing that is drawn"),
        ("--coco", coco, task.has_boxes, "no boxes"),
    ):
        if asked is not None and not can:
            raise SpecError(f"{name}: {opened.spec.name} gives {what}. Leave {name} out")
    precision = precision or opened.smallest_precision
    _refuse_sampling(opened.spec, seeds, label, steps)
    predictions: list[Prediction] = []
    bad: list[str] = []
    written: set[str] = set()
    clip, takes_images = opened.spec.preprocess.clip, opened.spec.takes_images
    paths, notes = expand_folders(images if takes_images else (), find_clips if clip else None)
    sources: list[ImageSource] = []
    if not takes_images:
        sources = _sources_of(with_steps(opened.spec, steps), images, seeds, label)
    with (
        log.progress() as progress,
        Predictor.open(opened, precision, backend, options, progress) as predictor,
        progress.step(f"running {precision}", len(paths) + sum(map(len, sources))) as advance,
    ):
        for note in notes:
            progress.note(note)
        if min_confidence is not None:
            predictor.spec = task.shown_from(predictor.spec, min_confidence)
        for path in paths:
            try:
                prediction = predictor.predict(path, top).at_least(min_confidence or 0.0)
                predictions.append(prediction)
                if draw is not None:
                    shown = task.draw(Image.fromarray(load_image(path)), prediction)
                    _write(draw, free_name(path.stem, written), shown, prediction)
            except ImageError as error:
                bad.append(str(error) if clip else _explain(path, bundle, error))
            advance(1)
        predictor.spec = with_steps(predictor.spec, steps)
        for prediction in itertools.chain.from_iterable(map(predictor.predict_many, sources)):
            predictions.append(prediction)
            if draw is not None:
                name = free_name(prediction.image.replace(" ", "-"), written)
                _write(draw, name, task.draw(None, prediction), prediction)
            advance(1)
    if coco is not None:
        entries = task.to_coco(predictions)
        write_atomically(coco, json.dumps(entries).encode())
        _LOG.info("%s: %d boxes in %d images", coco, len(entries), len(predictions))
    if as_json:
        print_json([prediction.to_json() for prediction in predictions])
    elif predictions:
        from edge_vit.report.terminal import predictions_table

        print_tables(predictions_table(predictions, task))
    for line in bad[:-1]:
        Failure(line, 1).show()
    if bad:
        raise Failure(bad[-1], 1)


def _sources_of(
    spec: ModelSpec, addresses: Sequence[Path], seeds: Sequence[int], label: int | None
) -> list[ImageSource]:
    """Return the samples of files or ranges of seeds, and of `seeds` with one `label`.

    Without either it is one sample.
    """
    if label is not None and addresses:
        raise SpecError(f"--label {label} goes with --seed, got {addresses[0]}. Leave one out")
    found = [open_image_source(str(address), has_truth=False, spec=spec) for address in addresses]
    seeds = seeds or (() if addresses else (_DEFAULT_SEED,))
    if seeds:
        rows = [task_of(spec).start(spec, seed, label) for seed in seeds]
        found.append(SampleSource(np.stack(rows), [f"seed {seed}" for seed in seeds]))
    return found


def _refuse_sampling(
    spec: ModelSpec, seeds: Sequence[int], label: int | None, steps: int | None
) -> None:
    """Refuse options of sampling for a model that does not sample."""
    asked = {"--seed": bool(seeds), "--label": label is not None, "--steps": steps is not None}
    for name, is_asked in asked.items():
        if is_asked and (spec.takes_images or (name != "--seed" and spec.sampling is None)):
            raise SpecError(f"{name}: {spec.name} has no steps of sampling. Leave {name} out")


def free_name(name: str, taken: set[str]) -> str:
    """Return `name`, numbered where it is in `taken`, and add it there.

    Images in two folders may be called alike: neither picture replaces the other.
    """
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
    free = next(each for each in names if each not in taken)
    taken.add(free)
    return free


def _write(folder: Path, name: str, shown: Any, prediction: Prediction) -> None:
    """Write the picture `shown` into `folder`, called `name`, and the prediction's files."""
    with refuse_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for ending, data in {"png": to_png(shown), **prediction.files()}.items():
        write_atomically(folder / f"{name}.{ending}", data)


def _explain(path: Path, bundle: Path, error: ImageError) -> str:
    """What is wrong with `path`; of a video, how its frames can be had."""
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
        return str(error)
    command = shlex.join(["edgevit", "camera", str(bundle), "--source", str(path), "--json"])
    return f"{path} is a video, expected an image. For the predictions of its frames: {command}"
