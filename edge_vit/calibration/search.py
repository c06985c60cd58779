"""Finds a plan for every layer, and the simpler plans that it has to be better than."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.calibration.block_walk import walk_blocks
from edge_vit.calibration.held_out import ChannelRange
from edge_vit.calibration.inputs import InputSample, sample_inputs
from edge_vit.calibration.layer import Layer, Plan, compensate
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.layer_search import Search
from edge_vit.calibration.observer import Observation
from edge_vit.calibration.output_error import Outputs
from edge_vit.calibration.probe import BlockProbe
from edge_vit.calibration.rounding import Compensator, choose_reference
from edge_vit.calibration.steps import KEPT, Choice, correct_bias, make_plan
from edge_vit.calibration.token_weights import TokenWeights, first_token_weights
from edge_vit.graph.exact import return_memory, size_of
from edge_vit.graph.sites import Site, Unit, find_units
from edge_vit.lowering.smoothing import find_smoothing_targets, smoothing_order
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import Recipe

_HEADROOMS = ((5, 1.5), (64, 1.25))
"""By the number of images below which it holds: how many times what was seen a smoothed range has.

Smoothing makes all channels reach equally far, so that a new image has many to leave the range by:
on few images, clipping costs more than coarser levels do. On the models of
benchmarks/real_models.py 1.25 is worth 1 to 6 dB with 16 images, 1 with 32 and nothing with 64."""

FEWEST_HELD_OUT = 4
"""Images held out below which the model is asked about outlier channels alone: they say little of
the next, and what a channel kept in floating point may lose is time."""

_FEW = 24  # one channel in so many may stay in floating point, at most

ROUNDING = "compensated rounding"

FINISHED = "all steps"
"""Of the plans that `search_plans` returns, the one that every step had its part in."""

Plans = Mapping[str, Plan]
"""A plan for each layer, by its name."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found for a model."""

    plans: Mapping[str, Plans]  # by what was done, the finished one first, then simpler ones
    # by layer, what it alone costs the output in the finished plan; empty where it was not
    # measured.
    errors: Mapping[str, float]
    # layers whose images say too little of how their channels vary together
    nearest: tuple[str, ...] = ()


def search_plans(
    model: onnx.ModelProto,
    spec: ModelSpec,
    seen: Observation,
    recipe: Recipe,
    exact: Sequence[Outputs] = (),
    *,
    kept: Collection[str] = (),
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Return plans for all layers of `model`.

    `seen`: what calibration saw of it. `kept`: layers that are not quantized; nothing is tried for
    them.
    """
    if not recipe.search_tokens:
        return Found({FINISHED: plan_alike(model, seen, recipe)}, {})
    found, errors, nearest = dict[str, dict[str, Plan]](), dict[str, float](), list[str]()
    shaping = seen.shaping or seen.held_out
    if len(exact) < FEWEST_HELD_OUT:
        recipe = replace(recipe, steps=(), strengths=())
    images = [*seen.held_out[: len(exact)], *shaping]
    blocks = find_units(ir.from_proto(model).graph)
    title = f"searching scales on {len(exact)} images, by block"
    with progress.step(title, len(blocks)) as advance:
        for block, states in walk_blocks(model, spec, images, threads):
            probe = BlockProbe(model, block, [next(states) for _ in exact], exact, threads, spec)
            weights = first_token_weights(_examples(block, seen, recipe), probe)
            probe.release_session()
            samples = sample_inputs(block, states, len(shaping), weights)
            here = _BlockSearch(block, seen, recipe, samples, weights, probe, kept)
            for name, plans in here.plans().items():
                found.setdefault(name, {}).update(plans)
            errors |= here.errors
            nearest += here.nearest
            for site in block.sites:
                site.linear.release_weight()
            del here, samples, weights, probe  # or the next block's would be in memory beside them
            return_memory(size_of(model))
            advance(1)
    return Found(found, errors, tuple(nearest))


def plan_alike(model: onnx.ModelProto, seen: Observation, recipe: Recipe) -> Plans:
    """Return plans that make the same choice for every layer: smoothing alone, nothing searched."""
    plans = dict[str, Plan]()
    for block in find_units(ir.from_proto(model).graph):
        plans |= _Family(block, seen, recipe).plan(Choice(recipe.fold_strength))
    return plans


class _Family:
    """One way to smooth a block, and the layers as it leaves them."""

    def __init__(self, block: Unit, seen: Observation, recipe: Recipe) -> None:
        self._block, self._seen, self._recipe = block, seen, recipe
        self._targets = {s.name: t for t in find_smoothing_targets(block) for s in t.sites}
        # By MatMul, what the columns are divided by: V -> proj and the like go first.
        self._factors = {
            s.linear.matmul: np.ones(len(s.linear.bias), np.float32) for s in block.sites
        }
        count = len(set(seen.image_digests))
        self._headroom = next((times for below, times in _HEADROOMS if count < below), 1.0)
        self._firsts = dict[str, Plan]()

    def layers(self, samples: _Rounding | None = None) -> Iterator[Layer]:
        """Yield each layer, in the order of smoothing; `settle` it before the next."""
        for site in smoothing_order(self._block):
            target, columns = self._targets.get(site.name), self._factors[site.linear.matmul]
            first, *others = (site,) if target is None else target.sites
            has_given = site is not first and first.name in self._firsts
            ranges = self._ranges(site)
            is_smoothed = target is not None and self._recipe.fold_strength > 0
            layer = Layer(
                name=site.name,
                weight=np.asarray(site.linear.weight / columns, np.float32),
                column_factors=columns,
                low=ranges.low,
                high=ranges.high,
                is_foldable=is_smoothed and site is first,
                is_shiftable=target is not None and target.is_shiftable and site is first,
                has_bias=site.linear.add is not None,
                headroom=self._headroom if is_smoothed else 1.0,
                # Between a product and its attention they would keep the two from being one.
                outliers=self._outliers(ranges) if target is None and site.role != "qkv" else (),
                partners=tuple(o.linear.weight / self._factors[o.linear.matmul] for o in others),
                given=self._firsts[first.name] if has_given else None,
            )
            yield layer if samples is None else samples.give(site, layer)

    def settle(self, layer: Layer, plan: Plan) -> None:
        """Take the divisors of `plan` for the layers that share them, or make their columns."""
        self._firsts[layer.name] = plan
        target = self._targets.get(layer.name)
        if target is None or layer.given is not None or target.source.matmul not in self._factors:
            return
        divided = self._factors[target.source.matmul][target.source.start :]
        divided[: target.width] *= plan.divisors

    def plan(self, choice: Choice) -> dict[str, Plan]:
        """Return one plan of the block, the same choice for every layer."""
        plans = {}
        for layer in self.layers():
            plan = make_plan(layer, choice, self._recipe)
            if self._recipe.range_method == "percentile":
                end = self._seen.stats[layer.name].percentile(self._recipe.percentile)
                plan = replace(plan, low=-end, high=end).did("percentile")
            plans[layer.name] = plan
            self.settle(layer, plan)
        return plans

    def _outliers(self, ranges: ChannelRange) -> tuple[int, ...]:
        """Return the channels that reach farthest: as many as the recipe says, few of all."""
        count = min(self._recipe.kept_channels, len(ranges.low) // _FEW)
        farthest = np.argsort(-np.maximum(ranges.high, -ranges.low), kind="stable")
        return tuple(sorted(farthest[:count].tolist()))

    def _ranges(self, site: Site) -> ChannelRange:
        if self._recipe.search_tokens:
            return self._seen.ranges[site.name]
        return ChannelRange.of(self._seen.stats[site.name])


class _Rounding:
    """What the block's inputs say about rounding its weights, each factorized once."""

    def __init__(self, samples: Mapping[str, InputSample]) -> None:
        self._samples = samples
        self._known = dict[tuple[str, bool], Compensator | None]()

    def give(self, site: Site, layer: Layer) -> Layer:
        """Return `layer` with what rounds its weight."""
        key = name, is_centered = site.linear.input.name or "", layer.has_bias
        gram = self._samples[name].gram
        if key not in self._known:
            reference = choose_reference(gram, layer.all_columns, is_centered=is_centered)
            self._known[key] = Compensator.of(
                gram, reference, layer.outliers, is_centered=is_centered
            )
        return replace(layer, compensator=self._known[key], mean=gram.mean)


class _BlockSearch:
    """The plans of one block."""

    def __init__(
        self,
        block: Unit,
        seen: Observation,
        recipe: Recipe,
        samples: Mapping[str, InputSample],
        weights: Mapping[str, TokenWeights],
        probe: BlockProbe,
        kept: Collection[str],
    ) -> None:
        self._kept = kept
        self._block, self._seen, self._recipe = block, seen, recipe
        self._samples, self._weights, self._probe = samples, weights, probe
        self._rounding = _Rounding(samples)
        self._inputs = {site.name: site.linear.input.name or "" for site in block.sites}
        self.errors, self.nearest = dict[str, float](), list[str]()

    def plans(self) -> dict[str, dict[str, Plan]]:
        """Return them by what was done, the finished one first."""
        recipe, seen = self._recipe, self._seen
        plain = replace(recipe, fold_strength=0.0, has_zero_points=False)
        simple = {"largest values": _Family(self._block, seen, plain).plan(Choice())}
        family = _Family(self._block, seen, recipe)
        nearest, rounded = dict[str, Plan](), dict[str, Plan]()
        # Inputs are factorized here: sums and session of the probe are not in memory together.
        for layer in family.layers(self._rounding):
            choice = Choice(recipe.fold_strength)
            nearest[layer.name] = make_plan(layer, choice, recipe)
            rounded[layer.name] = compensate(layer, nearest[layer.name])
            family.settle(layer, nearest[layer.name])
        for sample in self._samples.values():
            sample.gram.matrix = np.empty((0, 0))
        simple["smoothing alone"] = nearest
        if recipe.is_compensated:
            simple["smoothing and rounding"] = rounded
        return {**self._searched(), **simple}

    def _searched(self) -> dict[str, dict[str, Plan]]:
        recipe, family = self._recipe, _Family(self._block, self._seen, self._recipe)
        names = [FINISHED, *(f"without {step}" for step in recipe.steps if step != "shift")]
        if recipe.is_compensated:
            names.append(f"without {ROUNDING}")
        if recipe.kept_channels:
            names.append(f"without {KEPT}")
        found: dict[str, dict[str, Plan]] = {name: {} for name in names}
        for layer in family.layers(self._rounding):
            if layer.name in self._kept:
                plan = make_plan(layer, Choice(), recipe)
                family.settle(layer, plan)
                for name in names:
                    found[name][layer.name] = plan
                continue
            sample = self._samples[self._inputs[layer.name]]
            rows = LayerRows(layer, sample.rows, sample.weights)
            inputs = self._probe.inputs[layer.name]
            counts = self._weights[layer.name].of_rows(len(inputs))
            judge = LayerRows(layer, inputs, counts)
            search = Search(rows, judge, self._probe, recipe)
            result = search.run()
            plan, self.errors[layer.name] = result.plan, result.error
            if recipe.is_compensated and plan.levels is None:
                self.nearest.append(layer.name)
            family.settle(layer, plan)
            versions = {**result.simpler, f"without {ROUNDING}": search.nearest(plan)}
            for name in names:
                version = versions.get(name, plan)
                if name != "without bias" and "bias" in recipe.steps:
                    version = correct_bias(rows, version)
                found[name][layer.name] = version
        return found


def _examples(block: Unit, seen: Observation, recipe: Recipe) -> Iterator[tuple[Layer, Plan]]:
    """Yield each layer of `block` with a plan that asks for nothing."""
    family = _Family(block, seen, recipe)
    for layer in family.layers():
        plan = make_plan(layer, Choice(recipe.fold_strength), recipe)
        family.settle(layer, plan)
        yield layer, plan
