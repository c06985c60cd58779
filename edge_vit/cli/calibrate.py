"""``edgevit calibrate``: images into a bundle's calibration table."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from edge_vit.bundle import TABLE
from edge_vit.cli.options import (
    FOLDER,
    bundle_argument,
    num_images_option,
    recipe_option,
    threads_option,
)
from edge_vit.cli.talk import Talk
from edge_vit.table import DEFAULT_RECIPE, find_recipe

_LOG = logging.getLogger(__name__)


@click.command("calibrate")
@bundle_argument
@click.option(
    "--calib",
    metavar="DIR",
    type=FOLDER,
    required=True,
    help="Images like those of the deployment, a few hundred: a folder, .txt list, .npy or .npz.",
)
@num_images_option
@recipe_option
@threads_option
@click.pass_obj
def command(
    talk: Talk,
    bundle: Path,
    calib: Path,
    num_images: int | None,
    recipe: str | None,
    threads: int | None,
) -> None:
    """Compute a bundle's calibration table from images.

    Graphs that were made from an older table leave the bundle.
    """
    from edge_vit.pipeline import calibrate

    with talk.progress() as progress:
        calibrated = calibrate(
            bundle,
            calib,
            num_images=num_images,
            recipe=find_recipe(recipe or DEFAULT_RECIPE.name),
            threads=threads,
            progress=progress,
        )
    table = calibrated.read_table()
    click.echo(
        f"{bundle / TABLE}: {len(table.sites)} layers, calibrated on {table.num_images} images"
    )
    _LOG.info("Next, write the graphs from it: edgevit quantize %s", bundle)
