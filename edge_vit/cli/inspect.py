"""``edgevit inspect``: what is inside a bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from edge_vit.bundle import RECORD, TABLE, Bundle
from edge_vit.cli.options import bundle_argument, json_option
from edge_vit.cli.output import print_json, print_tables
from edge_vit.record import ExportRecord
from edge_vit.runtime.trt.places import engine_folders
from edge_vit.runtime.trt.sidecar import Engine, list_engines

_LOG = logging.getLogger(__name__)


@click.command("inspect")
@bundle_argument
@click.option("--check", is_flag=True, help="Check the digest of every file first.")
@json_option
def command(bundle: Path, check: bool, as_json: bool) -> None:
    """Show what is inside a bundle.

    The model's facts, each file, each layer's precision and why, and the engines that were built.
    """
    opened = Bundle.open(bundle)
    if check:
        opened.check()
        _LOG.info("all %d files are as the manifest says", len(opened.manifest.artifacts))
    if as_json:
        print_json(_to_json(opened))
        return
    from edge_vit.report.terminal import inspect_tables

    print_tables(inspect_tables(opened))
    engines = _engines(opened)
    if engines:
        from edge_vit.report.engines import engines_grid
        from edge_vit.report.terminal import grid_table

        print_tables(grid_table(engines_grid(engines)))


def _to_json(bundle: Bundle) -> dict[str, Any]:
    record = ExportRecord.from_bytes(bundle.read(RECORD)) if bundle.has(RECORD) else None
    return {
        "bundle": str(bundle.path),
        "manifest": bundle.manifest,
        "export": record,
        "calibration": bundle.read_table() if bundle.has(TABLE) else None,
        "engines": [{"path": str(e.path)} | vars(e.sidecar) for e in _engines(bundle)],
    }


def _engines(bundle: Bundle) -> list[Engine]:
    return [engine for folder in engine_folders(bundle) for engine in list_engines(folder)]
