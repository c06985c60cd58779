"""Finds a plan for every layer: folds and ranges, then the changes that the output gains by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from edge_vit.calibration.fold import FOLD_ORDER, choose_divisors, find_fold_targets
from edge_vit.calibration.held_out import ChannelRange
from edge_vit.calibration.layer import Layer, Plan, give_zero_point, plan_minmax
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.observer import Observation
from edge_vit.calibration.probe import BlockProbe, probe_blocks
from edge_vit.calibration.stats import ActivationStats
from edge_vit.calibration.steps import STEPS, Change
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.table import Recipe, StepName, sqnr_of

_MIN_GAIN = 0.98  # of the layer's own error: less is not worth a run of the model

_SURE_GAIN: Mapping[StepName, float] = {"shift": 0.8, "range": 0.0, "bias": 1.0}
"""Of the layer's own error: what leaves so little is taken without a run of the model. A shift
clips nothing, and to take a mean error out is no gamble, as a narrower range is. Asking the output
moved none of benchmarks/real_models.py by 0.2 dB."""

_HEADROOMS = ((5, 1.5), (64, 1.25))
"""By the number of images below which it holds: how many times what was seen a folded range takes.

Folding makes all channels reach equally far, so that a new image has many to leave the range by: on
few images, clipping costs more than coarser levels do. On the models of benchmarks/real_models.py
1.25 is worth 1 to 6 dB with 16 images, 1 with 32 and nothing with 64."""

FEWEST_HELD_OUT = 4
"""Images held out below which no step is taken: what fits so few says little of the next."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What was found for one layer.

    Attributes:
        plan: how to quantize it.
        is_folded: whether the plan's divisors and offsets are to be folded in.
        output_error: see `SiteScales`.
    """

    plan: Plan
    is_folded: bool
    output_error: float = 0.0


def search_plans(
    model: onnx.ModelProto,
    spec: ModelSpec,
    seen: Observation,
    recipe: Recipe,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Decision]:
    """Return a decision for each site of `model`.

    Args:
        model: the fp32 graph in canonical form; it is not changed.
        spec: its facts.
        seen: what calibration saw of it; the recipe's steps look at the images held out.
        recipe: the choices to make.
        threads: of ONNX Runtime; None for all cores.
        progress: told about each block.
    """
    if not recipe.search_tokens:
        blocks = find_blocks(ir.from_proto(model).graph)
        return {
            name: decision
            for block in blocks
            for name, decision in _decide_block(block, seen, recipe, None).items()
        }
    found: dict[str, Decision] = {}
    depth = len(find_blocks(ir.from_proto(model).graph))
    title = f"searching scales on {len(seen.held_out)} images, by block"
    # The threads of numpy's products would spin on for a while, in the way of ONNX Runtime's.
    with threadpool_limits(1, "blas"), progress.step(title, depth) as advance:
        for probe in probe_blocks(model, spec, seen.held_out, threads):
            found |= _decide_block(probe.block, seen, recipe, probe)
            advance(1)
    return found


def _decide_block(
    block: Block,
    seen: Observation,
    recipe: Recipe,
    probe: BlockProbe | None,
) -> dict[str, Decision]:
    targets = {site.name: t for t in find_fold_targets(block) for site in t.sites}
    # By MatMul, what the columns are divided by: V -> proj and the like go first.
    factors = {s.linear.matmul: np.ones(len(s.linear.bias), np.float32) for s in block.sites}
    num_images = len(set(seen.image_digests))
    headroom = next((times for below, times in _HEADROOMS if num_images < below), 1.0)
    if len(seen.held_out) < FEWEST_HELD_OUT:
        recipe = replace(recipe, steps=())
    found: dict[str, Decision] = {}
    for site in sorted(block.sites, key=lambda site: FOLD_ORDER.index(site.role)):
        target, columns = targets.get(site.name), factors[site.linear.matmul]
        first, *others = (site,) if target is None else target.sites
        ranges = seen.ranges[site.name] if probe else ChannelRange.of(seen.stats[site.name])
        is_folding = target is not None and recipe.fold_strength > 0
        is_first = site is first
        layer = Layer(
            name=site.name,
            weight=np.asarray(site.linear.weight / columns, np.float32),
            column_factors=columns,
            low=ranges.low,
            high=ranges.high,
            is_foldable=is_folding and is_first,
            is_shiftable=target is not None and target.is_shiftable and is_first,
            has_bias=site.linear.add is not None,
            headroom=headroom if is_folding else 1.0,
            partners=tuple(o.linear.weight / factors[o.linear.matmul] for o in others),
            given=None if is_first else found[first.name].plan,
        )
        found[site.name] = _decide(layer, seen.stats[site.name], recipe, probe)
        if target is not None and is_first and target.source.matmul in factors:
            divided = factors[target.source.matmul][target.source.start :]
            divided[: target.width] *= found[site.name].plan.divisors
    return found


def _decide(
    layer: Layer, stats: ActivationStats, recipe: Recipe, probe: BlockProbe | None
) -> Decision:
    """Return what to do with `layer`: the changes that pay on images its ranges have not seen.

    They are then made to the ranges of all images.
    """
    plan, error = _first_plan(layer, stats, recipe), 0.0
    if probe is not None:
        error, changes = _find_changes(layer, plan, recipe, probe)
        whole = replace(layer, low=stats.channel_min, high=stats.channel_max)
        plan = _first_plan(whole, stats, recipe)
        for change, gain in changes:
            changed = change(whole, plan)
            *before, last = changed.steps
            plan = replace(changed, steps=(*before, f"{last} ({gain})"))
    is_folded = bool((plan.divisors != 1).any() or plan.offsets.any())
    return Decision(plan, is_folded, error)


def _first_plan(layer: Layer, stats: ActivationStats, recipe: Recipe) -> Plan:
    plan = plan_minmax(layer)
    if layer.is_foldable:
        amax = np.maximum(layer.high, -layer.low)
        divisors = choose_divisors(amax, layer.all_columns, recipe.fold_strength)
        plan = plan_minmax(layer, divisors).did("fold")
    elif layer.given is not None:
        plan = plan_minmax(layer, layer.given.divisors, layer.given.offsets)
        plan = plan.did(*(step for step in layer.given.steps if step == "fold"))
    if recipe.range_method == "percentile":
        end = stats.percentile(recipe.percentile)
        plan = replace(plan, low=-end, high=end).did("percentile")
    return give_zero_point(layer, plan) if recipe.has_zero_points else plan


def _find_changes(
    layer: Layer, plan: Plan, recipe: Recipe, probe: BlockProbe
) -> tuple[float, list[tuple[Change, str]]]:
    """Return what the layer costs at the output in the end, and the changes that pay, with the dB.

    A step is taken where the product of both errors falls, the layer's and the output's: the first
    is an average over all tokens, the second tells which of them matter, but from few images.
    """
    rows = LayerRows(layer, probe.inputs[layer.name])
    changes: list[tuple[Change, str]] = []
    cost, error = rows.mean_square(plan), None
    for name in recipe.steps:
        change = STEPS[name](rows, plan, recipe.fold_strength)
        if change is None:
            continue
        proposal = change(layer, plan)
        share = rows.mean_square(proposal) / cost if cost else 1.0
        if share > _MIN_GAIN:
            continue
        if share <= _SURE_GAIN[name] or not recipe.is_judged:
            error = None if error is None else error * share
            gain = f"{sqnr_of(share):+.1f} dB here"
        else:
            if error is None:
                error = probe.relative_error(layer.name, rows.output_error(plan))
            new_error = probe.relative_error(layer.name, rows.output_error(proposal))
            if share * new_error >= error:
                continue
            gain = f"{sqnr_of(new_error) - sqnr_of(error):+.1f} dB"
            error = new_error
        changes.append((change, gain))
        plan, cost = proposal, cost * share
    if error is None:
        error = probe.relative_error(layer.name, rows.output_error(plan))
    return error, changes
