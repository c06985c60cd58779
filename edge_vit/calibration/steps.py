"""The steps of a recipe: each proposes a better plan for one layer, by the layer's own output.

All minimise the mean square of `output_error` over rows that calibration kept. Whether a proposal
is taken is decided elsewhere, by what it does to the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edge_vit.calibration.fold import choose_divisors
from edge_vit.calibration.layer import Layer, Plan, output_error, plan_minmax
from edge_vit.graph.walk import Array
from edge_vit.table import StepName

Step = Callable[[Layer, Plan, Array], Plan]

RANGE_RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def shift(layer: Layer, plan: Plan, rows: Array) -> Plan:
    """Centre every channel, so that a symmetric range has nothing to waste on one side."""
    if not layer.is_shiftable:
        return plan
    offsets = (layer.high + layer.low) / 2
    reach = (layer.high - layer.low) / 2
    divisors = choose_divisors(reach, layer.weight, 0.5) if layer.is_foldable else plan.divisors
    return plan_minmax(layer, divisors, offsets).did("shift")


def search_range(layer: Layer, plan: Plan, rows: Array) -> Plan:
    """Narrow the activation's range where clipping a few costs less than rounding all finer."""
    plans = [
        replace(plan, input_amax=plan.input_amax * ratio).did(f"range {ratio}")
        for ratio in RANGE_RATIOS
    ]
    return _best(layer, [plan, *plans], rows)


def correct_bias(layer: Layer, plan: Plan, rows: Array) -> Plan:
    """Take the mean error of each output out through the bias."""
    if not layer.has_bias:
        return plan
    mean = output_error(layer, plan, rows).mean(axis=0) / layer.column_factors
    return replace(plan, correction=plan.correction - mean).did("bias")


STEPS: Mapping[StepName, Step] = {
    "shift": shift,
    "range": search_range,
    "bias": correct_bias,
}


def mean_square(layer: Layer, plan: Plan, rows: Array) -> float:
    """Return the mean square of the layer's output error."""
    return float(np.mean(np.square(output_error(layer, plan, rows))))


def _best(layer: Layer, plans: list[Plan], rows: Array) -> Plan:
    costs = [mean_square(layer, plan, rows) for plan in plans]
    return plans[int(np.argmin(costs))]
