"""Observation -> calibration table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_vit.bundle import digest_of
from edge_vit.calibration.fallback import choose_fallback, rank_fallback
from edge_vit.calibration.half_ranges import choose_fp32_nodes, observe_amax
from edge_vit.calibration.observer import Observation, observe
from edge_vit.calibration.proof import prove_table, say_unforeseen
from edge_vit.calibration.search import FEWEST_HELD_OUT, Decision, search_plans
from edge_vit.calibration.stats import ActivationStats
from edge_vit.errors import SpecError
from edge_vit.graph.mapped import map_weights
from edge_vit.images import ImageSource
from edge_vit.preprocess import UInt8Array
from edge_vit.preprocess import digest as image_digest
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.table import CalibrationTable, FallbackPoint, Recipe, SiteScales, sqnr_of

FEW_IMAGES = 64
"""Below so many images a range may miss what the field will bring."""

_SHARE_HELD_OUT = 4  # one image in so many, at most


def calibrate_model(
    fp32: bytes,
    spec: ModelSpec,
    images: ImageSource,
    recipe: Recipe,
    *,
    threads: int | None = None,
    state_path: Path | None = None,
    progress: Progress = SILENT,
) -> CalibrationTable:
    """Return the table that `recipe` makes of `images`.

    Args:
        fp32: the graph in canonical form, as the bundle holds it.
        spec: its facts.
        images: each is read once; their order does not matter.
        recipe: the choices to make.
        threads: of ONNX Runtime; None for all cores.
        state_path: see `observe`.
        progress: told about each image.

    Raises:
        SpecError: there are no images, or the graph has no transformer block.
        BackendError: an activation is NaN or infinite.
    """
    if not len(images):
        raise SpecError("no images to calibrate on. Add --calib DIR with some of the deployment's")
    if len(images) < FEW_IMAGES:
        fewest = _SHARE_HELD_OUT * FEWEST_HELD_OUT
        more = f", and below {fewest} no step of the recipe is tried" if recipe.steps else ""
        progress.note(
            f"{len(images)} calibration images are few: below {FEW_IMAGES} the ranges may miss "
            f"what the field will bring{more if len(images) < fewest else ''}"
        )
    digest, hold_out = digest_of(fp32), _count_held_out(recipe, spec, len(images))
    with map_weights(fp32) as model:
        del fp32  # where the caller has let go of it too, its memory is free from here on
        seen = observe(
            model,
            spec,
            images,
            hold_out=hold_out,
            has_histogram=recipe.range_method == "percentile",
            threads=threads,
            state_path=state_path,
            model_digest=digest,
            progress=progress,
        )
        decisions = search_plans(model, spec, seen, recipe, threads=threads, progress=progress)
        some = _choose_for_overflow(seen)
        with progress.step(f"looking for FP16 overflow on {len(some)} images"):
            amax = observe_amax(model, spec, some, threads)
        sites, curve = _settle(decisions, seen, recipe, progress)
        fp32_nodes = choose_fp32_nodes(model, amax)
        table = CalibrationTable(
            recipe,
            digest,
            sites,
            seen.image_digests,
            curve,
            fp32_nodes,
            seen.image_signatures,
        )
        if table.sqnr is not None:
            with progress.step(f"trying INT8 on {len(seen.held_out)} images"):
                proof = prove_table(model, spec, table, seen.held_out, threads)
            if said := str(proof) if proof.is_collapsed else say_unforeseen(proof, table.sqnr):
                progress.note(said)
    return table


def _settle(
    decisions: Mapping[str, Decision], seen: Observation, recipe: Recipe, progress: Progress
) -> tuple[dict[str, SiteScales], tuple[FallbackPoint, ...]]:
    """Return what becomes of each site, some left in FP16 where too little is foreseen.

    The second value is the curve that this was chosen from; empty where nobody looked.
    """
    work = {  # over all images: where windows merge, layers take different counts of tokens
        name: float(decision.plan.num_weights * seen.stats[name].num_rows)
        for name, decision in decisions.items()
    }
    errors = {name: decision.output_error for name, decision in decisions.items()}
    curve = rank_fallback(errors, work, recipe.max_fallback) if recipe.search_tokens else ()
    spared = choose_fallback(
        curve, sqnr_of(sum(errors.values())), recipe.min_sqnr, recipe.max_fallback
    )
    left = sqnr_of(sum(error for name, error in errors.items() if name not in spared))
    if recipe.min_sqnr and round(left, 1) < recipe.min_sqnr:
        progress.note(
            f"INT8 is foreseen at {left:.1f} dB, below the {recipe.min_sqnr:g} dB wanted, "
            f"even with {len(spared)} of its layers in FP16. FP16 alone is likely the precision "
            "for this model; edgevit verify decides"
        )
    sites = {
        name: _scales(decisions[name], seen.stats[name], name in spared) for name in seen.stats
    }
    return sites, curve


_NUM_RANGE_IMAGES = 8  # to find out what overflows: far above the limit, or not at all


def _choose_for_overflow(seen: Observation) -> list[UInt8Array]:
    """Return some images as they come, and those that reach farthest, each once."""
    some = (*seen.held_out[:_NUM_RANGE_IMAGES], *seen.farthest)
    return list({image_digest(pixels): pixels for pixels in some}.values())


def _scales(decision: Decision, stats: ActivationStats, is_spared: bool) -> SiteScales:
    plan = decision.plan
    if is_spared:  # what is folded stays in the graph, in INT8 or not
        kept = tuple(step for step in plan.steps if step.startswith(("fold", "shift")))
        plan = replace(plan, correction=np.zeros_like(plan.correction), steps=kept)
    return SiteScales(
        precision="fp16" if is_spared else "int8",
        reason="INT8 costs the output most here" if is_spared else "linear layer of a block",
        activation_scale=plan.input_scale,
        activation_zero=plan.input_zero,
        weight_scales=tuple(plan.weight_scales.tolist()),
        activation_amax=stats.amax,
        activation_crest=stats.crest,
        divisors=tuple(plan.divisors.tolist()) if decision.is_folded else (),
        offsets=tuple(plan.offsets.tolist()) if plan.offsets.any() else (),
        correction=tuple(plan.correction.tolist()) if plan.correction.any() else (),
        steps=plan.steps,
        output_error=decision.output_error,
    )


def _count_held_out(recipe: Recipe, spec: ModelSpec, num_images: int) -> int:
    """Return how many images the steps look at: some, but a quarter of them at most."""
    if not recipe.search_tokens:
        return _NUM_RANGE_IMAGES
    wanted = FEWEST_HELD_OUT
    if spec.num_tokens:  # unknown where attention is within windows: of those an image has many
        wanted = max(wanted, math.ceil(recipe.search_tokens / spec.num_tokens))
    return max(1, min(wanted, num_images // _SHARE_HELD_OUT))
