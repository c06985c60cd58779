"""Observation -> calibration table."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edge_vit.bundle import digest_of
from edge_vit.calibration.fold import fold_blocks
from edge_vit.calibration.observer import observe
from edge_vit.calibration.ranges import activation_scale, weight_scales
from edge_vit.errors import SpecError
from edge_vit.graph.sites import find_sites
from edge_vit.images import ImageSource
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.table import CalibrationTable, Recipe, SiteScales

FEW_IMAGES = 64
"""Below so many images a range may miss what the field will bring."""


def calibrate_model(
    fp32: bytes,
    spec: ModelSpec,
    images: ImageSource,
    recipe: Recipe,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> CalibrationTable:
    """Return the table that `recipe` makes of `images`.

    Args:
        fp32: the graph in canonical form, as the bundle holds it.
        spec: its facts.
        images: each is read once; their order does not matter.
        recipe: the choices to make.
        threads: of ONNX Runtime; None for all cores.
        progress: told about each image.

    Raises:
        SpecError: there are no images, or the graph has no transformer block.
        BackendError: an activation is NaN or infinite.
    """
    if not len(images):
        raise SpecError("no images to calibrate on. Add --calib DIR with some of the deployment's")
    if len(images) < FEW_IMAGES:
        progress.note(
            f"{len(images)} calibration images are few: below {FEW_IMAGES} the ranges may miss "
            "what the field will bring"
        )
    model = onnx.load_from_string(fp32)
    seen = observe(model, spec, images, threads=threads, progress=progress)
    graph = ir.from_proto(model).graph
    folds = fold_blocks(graph, seen.stats, recipe.fold_strength)
    sites = {}
    for site in find_sites(graph):
        stats, divisors = seen.stats[site.name], folds.get(site.name)
        sites[site.name] = SiteScales(
            precision="int8",
            reason=_reason(divisors is not None),
            activation_scale=activation_scale(stats, recipe, divisors),
            weight_scales=tuple(weight_scales(site.linear.weight).tolist()),
            activation_amax=stats.amax,
            activation_crest=stats.crest,
            divisors=() if divisors is None else tuple(divisors.tolist()),
        )
    return CalibrationTable(recipe, digest_of(fp32), sites, seen.image_digests)


def _reason(is_folded: bool) -> str:
    """Say in the report's words why a site is INT8."""
    return "linear layer of a block" + (", outlier channels folded" if is_folded else "")
