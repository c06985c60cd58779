"""``edgevit calibrate``: images into a bundle's calibration table."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import click

from edge_vit.bundle import TABLE, Bundle
from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo, echo_forecast
from edge_vit.cli.params import option
from edge_vit.data.bad_images import MaxBad
from edge_vit.errors import SpecError
from edge_vit.files import refuse_unwritable_folder
from edge_vit.progress import Progress
from edge_vit.spec.table import DEFAULT_RECIPE, find_recipe

_LOG = logging.getLogger(__name__)
_NUM_FRAMES = 256


@click.command("calibrate")
@params.bundle_argument
@option(
    "--calib DIR",
    "A few hundred images like those of the deployment: a folder, .txt list, .npy, .npz or video.",
)
@option(
    "--from-camera ADDRESS",
    "Take --num-images (256) of a live source instead; addresses as of edgevit camera.",
    name="camera",
)
@option("--interval S", "Of --from-camera: seconds between images.", default=1.0, name="interval_s")
@option("--keep-frames DIR", "Leave the images of --from-camera here.", params.ANY_FOLDER)
@params.num_images_option
@params.max_bad_option
@params.recipe_option
@params.threads_option
@params.lock_timeout_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    calib: Path | None,
    camera: str | None,
    interval_s: float,
    keep_frames: Path | None,
    num_images: int | None,
    max_bad: MaxBad,
    recipe: str | None,
    threads: int | None,
    lock_timeout: float | None,
) -> None:
    """Compute a bundle's calibration table from images.

    Graphs that were made from an older table leave the bundle.
    """
    from edge_vit.api import CALIBRATION_STATE, calibrate

    if (calib is None) == (camera is None):
        raise click.UsageError("expected either --calib DIR or --from-camera ADDRESS")
    if keep_frames is not None and (camera is None or keep_frames.exists()):
        raise click.UsageError("--keep-frames wants --from-camera, and a folder that is not there")
    spec = Bundle.open(bundle).spec  # before minutes of taking pictures
    if camera is not None and spec.preprocess.clip is not None:
        raise SpecError(
            f"--from-camera: {spec.name} reads clips of {spec.preprocess.clip.frames} frames, and "
            "single images are kept. Record videos, and pass their folder as --calib DIR"
        )
    refuse_unwritable_folder(bundle)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(log.progress())
        if camera is not None:
            folder = keep_frames or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            calib = _take_frames(camera, folder, num_images or _NUM_FRAMES, interval_s, progress)
            num_images = None
        assert calib is not None
        try:
            calibrated = calibrate(
                bundle,
                calib,
                num_images=num_images,
                max_bad=max_bad,
                recipe=find_recipe(recipe or DEFAULT_RECIPE.name),
                threads=threads,
                lock_timeout=lock_timeout,
                progress=progress,
            )
        except KeyboardInterrupt:
            if camera is None and (bundle / CALIBRATION_STATE).is_file():
                progress.note("What was seen is kept: the same command goes on from there")
            raise
    table = calibrated.read_table()
    echo(f"{bundle / TABLE}: {len(table.sites)} layers, calibrated on {table.num_images} images")
    echo_forecast(table)
    _LOG.info("Next, write the graphs from it: edgevit quantize %s", bundle)


def _take_frames(
    address: str, folder: Path, num_images: int, interval_s: float, progress: Progress
) -> Path:
    from edge_vit.camera.collect import collect_frames
    from edge_vit.camera.sources.address import source_maker

    maker = source_maker(address)
    collect_frames(maker, folder, num_images, interval_s=interval_s, progress=progress)
    return folder
