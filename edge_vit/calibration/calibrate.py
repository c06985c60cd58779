"""Observation -> calibration table."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
from threadpoolctl import threadpool_limits

from edge_vit.bundle import digest_of
from edge_vit.calibration.graph_run import SHARE_HELD_OUT, GraphRun
from edge_vit.calibration.rotation_trial import choose_rotation
from edge_vit.calibration.search import FEWEST_HELD_OUT
from edge_vit.data.images import ImageSource
from edge_vit.errors import SpecError
from edge_vit.graph.exact import map_weights, return_memory, set_malloc_thresholds, size_of
from edge_vit.lowering.rotation import scale_hidden
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable, Recipe

FEW_IMAGES = 64
"""Below so many images a range may miss what the field will bring."""


def calibrate_model(
    fp32: bytes | onnx.ModelProto,
    spec: ModelSpec,
    images: ImageSource,
    recipe: Recipe,
    *,
    digest: str | None = None,
    exclude: Collection[str] = (),
    threads: int | None = None,
    state_path: Path | None = None,
    progress: Progress = SILENT,
) -> CalibrationTable:
    """Return the table that `recipe` makes of `images`.

    `fp32`: the graph in canonical form, as the bundle holds it, or read, with the `digest` of its
    file; one that is read and has its weights inside loses them. `exclude`: digests of images that
    INT8 is tried on later: where enough others are left, they take no part. `state_path`: see
    `observe`.

    Raises:
        SpecError: there are no images, no digest, or no linear layer to quantize.
        BackendError: an activation is NaN or infinite.
    """
    if not len(images):
        raise SpecError("no images to calibrate on. Add --calib DIR with some of the deployment's")
    if len(images) < FEW_IMAGES:
        fewest = SHARE_HELD_OUT * FEWEST_HELD_OUT
        more = f", and below {fewest} no range, shift or bias is tried" if recipe.steps else ""
        progress.note(
            f"{len(images)} calibration images are few: below {FEW_IMAGES} the ranges may miss "
            f"what the field will bring{more if len(images) < fewest else ''}"
        )
    digest = digest_of(fp32) if isinstance(fp32, bytes) else digest
    if not digest:
        raise SpecError("a graph that was read needs the digest of its file. Give digest=...")
    set_malloc_thresholds()
    mapped = map_weights(fp32)
    del fp32  # where the caller has let go of it too, its memory is free as soon as it is read
    # The threads of numpy's products would spin on for a while, in the way of ONNX Runtime's.
    with threadpool_limits(1, "blas"), _quick_collections(), mapped as model:
        if recipe.scales_hidden:
            model = scale_hidden(model)
        run = GraphRun.of(
            model, spec, images, recipe, exclude, digest, threads, state_path, progress
        )
        can_rotate = recipe.tries_rotation and run.seen.shaping
        table = choose_rotation(run, progress) if can_rotate else run.settle()
        del run
        return_memory(size_of(model))
        if table.is_decided or not recipe.search_tokens:
            return table
        progress.note(
            f"what INT8 comes to on other images is {table.forecast_text}; edgevit verify decides"
        )
        return replace(table, forecast=None)


@contextlib.contextmanager
def _quick_collections() -> Iterator[None]:
    """Let collections of memory pass over what is there already: a third of a second each.

    A calibration asks for dozens, since graphs refer to themselves.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
