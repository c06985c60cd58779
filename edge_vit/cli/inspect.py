"""``edgevit inspect``: what is inside a bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from edge_vit.bundle import RECORD, TABLE, Bundle
from edge_vit.bundle.journal import NEXT
from edge_vit.bundle.record import ExportRecord
from edge_vit.cli import params
from edge_vit.cli.output import print_grids, print_json, print_tables
from edge_vit.cli.params import option
from edge_vit.formats import all_formats
from edge_vit.runtime.trt.store import Engine, engine_folders, list_engines
from edge_vit.values import to_json

_LOG = logging.getLogger(__name__)


@click.command("inspect")
@params.bundle_argument
@option("--check", "Check the digests of all files and engines first.")
@params.json_option
def command(bundle: Path, check: bool, as_json: bool) -> None:
    """Show what is inside a bundle.

    The model's facts, each file, each layer's precision and why, and the engines that were built.
    """
    opened = Bundle.open(bundle)
    if check:
        _check(opened)
    if as_json:
        print_json(_to_json(opened))
        return
    from edge_vit.report.terminal import inspect_tables

    print_tables(inspect_tables(opened))
    engines = _engines(opened)
    if engines:
        from edge_vit.report.machine import engines_grid

        print_grids(engines_grid(engines))


def _check(bundle: Bundle) -> None:
    bundle.check()
    _LOG.info("all %d files are as the manifest says", len(bundle.manifest.artifacts))
    engines = list(list_engines(bundle.path / "engines"))
    for engine in engines:
        engine.read()
    if engines:
        _LOG.info("all %d engines are as their sidecars say", len(engines))
    if bundle.manifest.format == 1:
        _LOG.warning(
            "the manifest is of format 1 and has no digest of its own: an edited mean or label "
            "shows nowhere. edgevit calibrate, quantize and export --force write one"
        )
    if bundle.is_unfinished:
        _LOG.warning(
            "a command was cut off when all was written and not all was in its place. That is read "
            "from %s, and the next command that writes the bundle finishes it",
            bundle.path / NEXT,
        )


def _to_json(bundle: Bundle) -> dict[str, Any]:
    record = ExportRecord.from_bytes(bundle.read(RECORD)) if bundle.has(RECORD) else None
    return {
        "bundle": str(bundle.path),
        "manifest": bundle.manifest,
        "export": record,
        "calibration": bundle.read_table() if bundle.has(TABLE) else None,
        "variants": [
            {"precision": each.name, **to_json(variant)}
            for each in all_formats()
            for variant in each.variants
            if bundle.has(variant.file)
        ],
        "engines": [{"path": str(e.path)} | vars(e.sidecar) for e in _engines(bundle)],
    }


def _engines(bundle: Bundle) -> list[Engine]:
    return [engine for folder in engine_folders(bundle) for engine in list_engines(folder)]
