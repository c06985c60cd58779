"""What quantizing a linear layer changes of its output, in numpy, exactly as the graph will."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.layer import Layer, Plan, exact_weight, round_weight
from edge_vit.graph.walk import Array
from edge_vit.lowering.qdq import QMAX


class LayerRows:
    """A layer with rows of its input, over which plans of it can be tried.

    Args:
        weights: (R,), how much each counts; None for all alike.
    """

    def __init__(self, layer: Layer, rows: Array, weights: Array | None = None) -> None:
        self.layer, self.rows = layer, rows
        counts = np.ones(len(rows), np.float32) if weights is None else weights
        self.weights: npt.NDArray[np.float32] = counts / counts.mean()
        self._folded: _Folded | None = None
        self._last: tuple[Plan, npt.NDArray[np.float32]] | None = None

    def output_error(self, plan: Plan) -> npt.NDArray[np.float32]:
        """Return quantized minus exact output, (R, N), in the units of the unfolded model.

        It is kept until another plan is asked for: leave it as it is.
        """
        if self._last is None or self._last[0] is not plan:
            self._last = plan, self._compute(plan)
        return self._last[1]

    def mean_square(self, plan: Plan) -> float:
        """Return the mean square of `output_error`, rows weighted."""
        return self._mean_square(self.output_error(plan))

    def weight_square(self, plan: Plan) -> float:
        """Return the mean square of what rounding the weight alone makes, the bias corrected."""
        error = self._fold(plan).weight_error + plan.correction
        return self._mean_square(error * self.layer.column_factors)

    def _mean_square(self, error: Array) -> float:
        rows = np.einsum("rn,rn->r", error, error, dtype=np.float64)
        return float(self.weights @ rows) / error.size

    def _compute(self, plan: Plan) -> npt.NDArray[np.float32]:
        folded = self._fold(plan)
        # x'W' - xW in two parts, each small, so that float32 products lose nothing of the
        # difference; the second is the same for every range of the input.
        error = round_to_levels(folded.rows, plan.input_scale, plan.input_zero)
        error -= folded.rows
        error = error @ folded.weight + folded.weight_error
        error += plan.correction
        error *= self.layer.column_factors
        return error

    def _fold(self, plan: Plan) -> _Folded:
        key = (plan.divisors, plan.offsets, plan.weight_amax, plan.levels)
        kept = self._folded
        if kept is None or any(a is not b for a, b in zip(kept.key, key, strict=True)):
            rows = (self.rows - plan.offsets) / plan.divisors
            exact = exact_weight(self.layer, plan)
            scales = plan.weight_scales.astype(np.float32)  # float16 times a level is exact in it
            weight: npt.NDArray[np.float32] = round_weight(self.layer, plan) * scales
            self._folded = kept = _Folded(key, rows, weight, rows @ (weight - exact))
        return kept


@dataclass(frozen=True, eq=False)
class _Folded:
    """What plans that differ in the input's range or the bias alone share."""

    key: tuple[Array | None, ...]  # the arrays of the plan that decide it
    rows: npt.NDArray[np.float32]  # (R, K), what comes in, folded but not rounded
    weight: npt.NDArray[np.float32]  # (K, N), folded and rounded
    # (R, N), the output's error if only the weight is rounded
    weight_error: npt.NDArray[np.float32]


def round_to_levels(values: Array, scale: float, zero: int = 0) -> npt.NDArray[np.float32]:
    """Return `values` as QuantizeLinear and DequantizeLinear to int8 leave them."""
    levels: npt.NDArray[np.float32] = np.divide(values, np.float32(scale), dtype=np.float32)
    np.rint(levels, out=levels)
    np.clip(levels, -QMAX - 1 - zero, QMAX - zero, out=levels)
    levels *= np.float32(scale)
    return levels
