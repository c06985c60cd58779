"""``edgevit quantize``: a bundle's FP16 and INT8 graphs, from its table."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from edge_vit.cli import params
from edge_vit.cli.export import print_artifacts
from edge_vit.cli.log import CommandLog

_LOG = logging.getLogger(__name__)


@click.command("quantize")
@params.bundle_argument
@params.lock_timeout_option
@click.pass_obj
def command(log: CommandLog, bundle: Path, lock_timeout: float | None) -> None:
    """Write the FP16 and INT8 graphs, from the calibration table.

    Needs no images.
    """
    from edge_vit.api import quantize

    with log.progress() as progress:
        quantized = quantize(bundle, lock_timeout=lock_timeout, progress=progress)
    print_artifacts(quantized)
    _LOG.info("Next, let it be judged: edgevit verify %s --data DIR", bundle)
