"""``edgevit run``: what a bundle sees in images."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edge_vit.bundle import Bundle
from edge_vit.cli.group import Failure
from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import (
    POSITIVE,
    bundle_argument,
    images_argument,
    json_option,
    option,
    precision_option,
    session_options,
)
from edge_vit.cli.output import print_json, print_tables
from edge_vit.data.folder import expand_folders
from edge_vit.data.registry import VIDEO_SUFFIXES
from edge_vit.errors import ImageError
from edge_vit.runtime import Prediction, Predictor, SessionOptions
from edge_vit.spec import Precision
from edge_vit.tasks import task_of


@click.command("run")
@bundle_argument
@images_argument
@option("--top N", "Answers to show for each image.", POSITIVE, 5)
@precision_option
@session_options
@json_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    images: tuple[Path, ...],
    top: int,
    precision: Precision | None,
    backend: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Say what a bundle sees in images.

    IMAGE is a file, or a folder, all of whose images are taken. An image that cannot be read is
    named on stderr; the others are answered, and the exit status is 1.
    """
    opened = Bundle.open(bundle)
    precision = precision or opened.smallest_precision
    predictions: list[Prediction] = []
    bad: list[str] = []
    paths, notes = expand_folders(images)
    with (
        log.progress() as progress,
        Predictor.open(opened, precision, backend, options, progress) as predictor,
        progress.step(f"running {precision}", len(paths)) as advance,
    ):
        for note in notes:
            progress.note(note)
        for path in paths:
            try:
                predictions.append(predictor.predict(path, top))
            except ImageError as error:
                bad.append(_explain(path, bundle, error))
            advance(1)
    if as_json:
        print_json([prediction.to_json() for prediction in predictions])
    elif predictions:
        from edge_vit.report.terminal import predictions_table

        print_tables(predictions_table(predictions, task_of(opened.spec)))
    for line in bad[:-1]:
        Failure(line, 1).show()
    if bad:
        raise Failure(bad[-1], 1)


def _explain(path: Path, bundle: Path, error: ImageError) -> str:
    """What is wrong with `path`; of a video, how its frames can be had."""
    if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
        return str(error)
    command = shlex.join(["edgevit", "camera", str(bundle), "--source", str(path), "--json"])
    return f"{path} is a video, expected an image. For the predictions of its frames: {command}"
