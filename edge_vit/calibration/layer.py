"""One linear layer and one way to quantize it, computed in numpy exactly as the graph will."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.ranges import QMAX, quantize_weight, round_scale
from edge_vit.graph.walk import Array


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer with what calibration saw of its input.

    Attributes:
        name: of its site.
        weight: float32 (K, N); columns whose outputs are folded are divided already.
        column_factors: (N,), by which an error of such an output counts in the unfolded model.
        low: (K,) float32, smallest input of each channel.
        high: (K,) float32, largest.
        is_foldable: what is in front of the layer takes a factor per channel.
        is_shiftable: it takes a constant per channel too, and the layer has a bias to undo it.
        has_bias: a correction can be added to it.
    """

    name: str
    weight: npt.NDArray[np.float32]
    column_factors: npt.NDArray[np.float32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    is_foldable: bool
    is_shiftable: bool
    has_bias: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """How to quantize a layer: ``x' = (x - offsets) / divisors``, ``W' = divisors * W``.

    Attributes:
        divisors: (K,) float32; ones where nothing is folded.
        offsets: (K,) float32; zeros where nothing is shifted.
        input_amax: end of the range of x'.
        weight_amax: (N,), end of the range of each column of W'.
        correction: (N,) float32, added to the bias.
        steps: what was done, in words for the report.
    """

    divisors: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]
    input_amax: float
    weight_amax: npt.NDArray[np.float64]
    correction: npt.NDArray[np.float32]
    steps: tuple[str, ...] = ()

    @property
    def input_scale(self) -> float:
        """The per-tensor scale of x', rounded to float16."""
        return float(round_scale(np.float64(self.input_amax / QMAX)))

    @property
    def weight_scales(self) -> npt.NDArray[np.float64]:
        """(N,), rounded to float16."""
        return round_scale(self.weight_amax / QMAX)

    def did(self, step: str) -> Plan:
        """Return the plan with `step` written down."""
        return replace(self, steps=(*self.steps, step))


def plan_minmax(layer: Layer, divisors: Array | None = None, offsets: Array | None = None) -> Plan:
    """Return the plan whose ranges hold all that was seen, folded by `divisors` and `offsets`."""
    inputs, outputs = layer.weight.shape
    factors = np.ones(inputs, np.float32) if divisors is None else np.asarray(divisors, np.float32)
    centres = np.zeros(inputs, np.float32) if offsets is None else np.asarray(offsets, np.float32)
    reach = np.maximum(layer.high - centres, centres - layer.low) / factors
    columns = np.abs(layer.weight * factors[:, None]).max(axis=0).astype(np.float64)
    return Plan(factors, centres, float(reach.max()), columns, np.zeros(outputs, np.float32))


def output_error(layer: Layer, plan: Plan, rows: Array) -> npt.NDArray[np.float32]:
    """Return quantized minus exact output, (R, N) float32, in the units of the unfolded model.

    Args:
        layer: the layer.
        plan: how it is quantized.
        rows: (R, K) float32, inputs of the unfolded model.
    """
    exact = (rows - plan.offsets) / plan.divisors
    weight = layer.weight * plan.divisors[:, None]
    levels = quantize_weight(weight, plan.weight_scales) * plan.weight_scales
    seen = round_to_levels(exact, plan.input_scale)
    # x'W' - xW in two parts, each small, so that float32 products lose nothing of the difference.
    error = (seen - exact) @ weight + seen @ (levels - weight).astype(np.float32)
    result: npt.NDArray[np.float32] = (error + plan.correction) * layer.column_factors
    return result


def round_to_levels(values: Array, scale: float) -> npt.NDArray[np.float32]:
    """Return `values` as QuantizeLinear and DequantizeLinear leave them: int8, zero point 0."""
    levels = np.clip(np.rint(values / np.float32(scale)), -QMAX - 1, QMAX)
    result: npt.NDArray[np.float32] = (levels * np.float32(scale)).astype(np.float32)
    return result
