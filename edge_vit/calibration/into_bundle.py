"""A bundle calibrated on images: the table in it, and what an older table made taken out."""

from __future__ import annotations

import contextlib
from pathlib import Path

from edge_vit.bundle import GOLDEN, ROUNDED, TABLE, Bundle
from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.data.bad_images import noted
from edge_vit.data.images import ImageSource
from edge_vit.graph.large import read_graph
from edge_vit.optional import installed_versions
from edge_vit.progress import SILENT, Progress
from edge_vit.spec.table import Recipe


def calibrate_bundle(
    bundle: Bundle,
    images: ImageSource,
    recipe: Recipe,
    state_path: Path,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Bundle:
    """Calibrate a bundle that is locked on `images`, and return it with its table.

    `state_path`: file for what was seen so far, from which the same call goes on. Raises what
    `calibrate_model` does.
    """
    with noted(images, progress):
        table = calibrate_model(
            read_graph(bundle),
            bundle.spec,
            images,
            recipe,
            digest=bundle.artifact(bundle.graph()).sha256,
            exclude=bundle.read_golden().digests if bundle.has(GOLDEN) else (),
            threads=threads,
            state_path=state_path,
            progress=progress,
        )
    old = bundle.artifact(TABLE).sha256 if bundle.has(TABLE) else ""
    artifacts = bundle.manifest.artifacts.items()
    stale = tuple(name for name, artifact in artifacts if old in artifact.parents)
    files = {TABLE: table.to_bytes()}
    if table.levels:
        files[ROUNDED] = table.weights_to_bytes()
    elif bundle.has(ROUNDED):
        stale = (*stale, ROUNDED)
    bundle = bundle.add(
        files,
        parents=(bundle.graph(),),
        made_by=installed_versions("onnxruntime", "onnx", "onnx-ir"),
        drop=stale,
    )
    with contextlib.suppress(OSError):
        state_path.unlink(missing_ok=True)
    return bundle
