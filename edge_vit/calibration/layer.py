"""One linear layer and one way to quantize it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.rounding import Compensator
from edge_vit.calibration.stats import ActivationStats
from edge_vit.formats.fp16 import FORMAT as FP16
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.graph.walk import Array
from edge_vit.lowering.fp16 import HALF_MAX
from edge_vit.lowering.qdq import QMAX, quantize_weight, round_scale
from edge_vit.spec.table import SiteScales

ONE_SIDED = 0.75
"""A zero point is given where the range becomes at least so much shorter by it."""

COMPENSATED = "compensated"
"""Among the steps of a plan: errors of the weight's rounding are made up for."""

MAX_CANCELLED = 0.25
"""Rounding to float16 that a zero point may add, as a share of INT8's own noise energy."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer with what calibration saw of its input."""

    name: str  # of its site
    # float32 (K, N); columns whose outputs are folded are divided already
    weight: npt.NDArray[np.float32]
    # (N,), by which an error of such an output counts in the unfolded model
    column_factors: npt.NDArray[np.float32]
    low: npt.NDArray[np.float32]  # (K,) float32, smallest input of each channel
    high: npt.NDArray[np.float32]  # (K,) float32, largest
    is_foldable: bool  # what is in front of the layer takes a factor per channel
    is_shiftable: bool  # it takes a constant per channel too, and the layer has a bias to undo it
    has_bias: bool  # a correction can be added to it
    headroom: float = 1.0  # how many times what was seen a range holds
    # channels that may stay in floating point, as Plan.kept says
    outliers: tuple[int, ...] = ()
    # what rounds the weight so that errors make up for each other; None for nearest
    compensator: Compensator | None = None
    mean: npt.NDArray[np.float64] | None = None  # (K,), of the input; None where it is not known
    # (K, M), weights of the other layers that read the same input and are folded with it; divided
    # as `weight` is.
    partners: tuple[Array, ...] = ()
    # the plan of the layer whose divisors and offsets this one has to share
    given: Plan | None = None

    @property
    def all_columns(self) -> Array:
        """(K, N and more), the columns that divisors are chosen by: its own and its partners'."""
        if not self.partners:
            return self.weight
        return np.concatenate([self.weight, *self.partners], axis=1)

    def without_outliers(self) -> Layer:
        """Return the layer as it is quantized where `outliers` stay in floating point."""
        weight, low, high = self.weight.copy(), self.low.copy(), self.high.copy()
        for array in (weight, low, high):
            array[list(self.outliers)] = 0
        return replace(self, weight=weight, low=low, high=high)


@dataclass(frozen=True, eq=False)
class Plan:
    """How to quantize a layer: ``x' = (x - offsets) / divisors``, ``W' = divisors * W``."""

    divisors: npt.NDArray[np.float32]  # (K,) float32; ones where nothing is folded
    offsets: npt.NDArray[np.float32]  # (K,) float32; zeros where nothing is shifted
    low: float  # where the range of x' begins, 0 at most; ``-high`` where it is symmetric
    high: float  # where it ends, 0 at least
    weight_amax: npt.NDArray[np.float64]  # (N,), end of the range of each column of W'
    correction: npt.NDArray[np.float32]  # (N,) float32, added to the bias
    # of W', int8 (K, N); None where each weight is rounded to the nearest
    levels: npt.NDArray[np.int8] | None = None
    # channels that stay in floating point beside the quantized product
    kept: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()  # what was done, in words for the report

    @property
    def input_scale(self) -> float:
        """The per-tensor scale of x', rounded to float16."""
        return float(round_scale(np.float64((self.high - self.low) / (2 * QMAX))))

    @property
    def input_zero(self) -> int:
        """The level that stands for x' = 0, -127 to 127; 0 where the range is symmetric."""
        return -int(np.rint((self.high + self.low) / 2 / self.input_scale))

    @property
    def weight_scales(self) -> npt.NDArray[np.float64]:
        """(N,), rounded to float16."""
        return round_scale(self.weight_amax / QMAX)

    @property
    def num_weights(self) -> int:
        """K times N: how many multiply-adds the layer takes for one token."""
        return len(self.divisors) * len(self.weight_amax)

    def is_same_as(self, other: Plan) -> bool:
        """Say whether both quantize alike."""
        ends = (self.low, self.high) == (other.low, other.high)
        arrays = ("divisors", "offsets", "weight_amax", "correction")
        return (
            ends
            and self.kept == other.kept
            and (self.levels is other.levels or _equal(self.levels, other.levels))
            and all(np.array_equal(getattr(self, a), getattr(other, a)) for a in arrays)
        )

    def did(self, *steps: str) -> Plan:
        """Return the plan with `steps` written down."""
        return replace(self, steps=(*self.steps, *steps))


def _equal(first: Array | None, second: Array | None) -> bool:
    return first is not None and second is not None and np.array_equal(first, second)


def round_weight(layer: Layer, plan: Plan) -> npt.NDArray[np.int8]:
    """Return the levels that `plan` gives the weight of `layer`, int8 (K, N)."""
    if plan.levels is not None:
        return plan.levels
    return quantize_weight(exact_weight(layer, plan), plan.weight_scales)


def exact_weight(layer: Layer, plan: Plan) -> npt.NDArray[np.float32]:
    """Return the weight of `layer`, (K, N), as it is quantized: zero where channels are kept."""
    weight = layer.weight * plan.divisors[:, None]
    weight[list(plan.kept)] = 0
    return weight


def compensate(layer: Layer, plan: Plan) -> Plan:
    """Return `plan` with errors of the weight's rounding made up for, where the layer knows how.

    What they do to the mean output goes into the bias.
    """
    if layer.compensator is None:
        return plan
    exact = exact_weight(layer, plan)
    levels = layer.compensator.round(exact, plan.weight_scales, plan.divisors)
    rounded = replace(plan, levels=levels).did(COMPENSATED)
    return keep_mean(layer, rounded)


def keep_mean(layer: Layer, plan: Plan) -> Plan:
    """Return `plan` with the mean error that rounding the weight makes taken out by the bias."""
    if not layer.has_bias or layer.mean is None:
        return plan
    scales = plan.weight_scales
    exact = exact_weight(layer, plan).astype(np.float64)
    mean = (layer.mean - plan.offsets) / plan.divisors
    error = mean @ (round_weight(layer, plan) * scales - exact)
    return replace(plan, correction=plan.correction - error.astype(np.float32))


def plan_minmax(layer: Layer, divisors: Array | None = None, offsets: Array | None = None) -> Plan:
    """Return the symmetric plan that holds all that was seen, folded by divisors and offsets.

    It holds `Layer.headroom` times as much.
    """
    inputs, outputs = layer.weight.shape
    factors = np.ones(inputs, np.float32) if divisors is None else np.asarray(divisors, np.float32)
    centres = np.zeros(inputs, np.float32) if offsets is None else np.asarray(offsets, np.float32)
    seen = float((np.maximum(layer.high - centres, centres - layer.low) / factors).max())
    reach = seen * layer.headroom
    columns = np.abs(layer.weight * factors[:, None]).max(axis=0).astype(np.float64)
    return Plan(factors, centres, -reach, reach, columns, np.zeros(outputs, np.float32))


def give_zero_point(layer: Layer, plan: Plan) -> Plan:
    """Let the range of `plan` follow an input that lies mostly on one side of zero, as GELU's does.

    The level that stands for zero moves, so that no levels are spent on what never comes. Kernels
    that know no zero point are fed ``x' - centre`` instead, which the bias undoes, or one that a
    layer gets for it. Where channels can be shifted one by one, that does more and costs nothing.

    The product and the bias then hold ``centre * sum of the weight's column``, of opposite signs.
    Where the columns' sums are far from zero, float16 loses more by that than the levels gain.
    """
    low = layer.headroom * min(0.0, float(((layer.low - plan.offsets) / plan.divisors).min()))
    high = layer.headroom * max(0.0, float(((layer.high - plan.offsets) / plan.divisors).max()))
    if layer.is_shiftable or high - low > ONE_SIDED * (plan.high - plan.low):
        return plan
    given = replace(plan, low=low, high=high)
    return given.did("zero point") if _cancelled(layer, given) < MAX_CANCELLED else plan


def _cancelled(layer: Layer, plan: Plan) -> float:
    """Return what float16 loses to the centre of `plan`, over INT8's noise; both as energies."""
    weight = layer.weight.astype(np.float64) * plan.divisors[:, None]
    centre = plan.input_zero * plan.input_scale
    sums = centre * weight.sum(axis=0)
    if max(abs(centre), np.abs(sums).max()) > HALF_MAX / 4:  # or infinite in the graph
        return np.inf
    roundings = 2 * np.square(sums * 2.0**-11) / 12  # product and bias
    noise = plan.input_scale**2 / 12 * np.square(weight).sum(axis=0)
    kept, lost = float(noise.sum()), float(roundings.sum())
    return lost / kept if kept else 0.0


def layer_scales(
    plan: Plan, stats: ActivationStats, why_half: str | None, error: float
) -> SiteScales:
    """Return `plan` for the table; in FP16 for the reason `why_half`, in INT8 where it is None."""
    is_smoothed = bool((plan.divisors != 1).any() or plan.offsets.any())
    if why_half is not None:  # smoothing stays in the graph, in INT8 or not
        kept = tuple(step for step in plan.steps if step.startswith(("smoothing", "shift")))
        none = np.zeros_like(plan.correction)
        plan = replace(plan, correction=none, levels=None, kept=(), steps=kept)
    return SiteScales(
        precision=(INT8 if why_half is None else FP16).name,
        reason=why_half or "linear layer of a block",
        activation_scale=plan.input_scale,
        activation_zero=plan.input_zero,
        weight_scales=tuple(plan.weight_scales.tolist()),
        activation_amax=stats.amax,
        activation_crest=stats.crest,
        divisors=tuple(plan.divisors.tolist()) if is_smoothed else (),
        offsets=tuple(plan.offsets.tolist()) if plan.offsets.any() else (),
        correction=tuple(plan.correction.tolist()) if plan.correction.any() else (),
        kept_channels=plan.kept,
        steps=plan.steps,
        output_error=error,
    )
