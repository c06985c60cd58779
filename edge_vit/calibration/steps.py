"""The steps of a recipe: each proposes a change of one layer's plan, by the layer's own output.

All minimise the mean square of `output_error` over rows that calibration kept. Whether a proposal
is taken is decided elsewhere, by what it does to the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from edge_vit.calibration.fold import choose_divisors
from edge_vit.calibration.layer import Layer, Plan, output_error, plan_minmax
from edge_vit.graph.walk import Array
from edge_vit.table import StepName

Change = Callable[[Layer, Plan], Plan]
"""What is done to a plan; the same can be done for other ranges of the layer."""

Step = Callable[[Layer, Plan, Array, float], "Change | None"]
"""From a layer, its plan, rows of its input, and the fold strength, to a change that may pay."""

RANGE_RATIOS = (
    *(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15),
    *(0.1, 0.07, 0.05, 0.03, 0.02, 0.01),
)
"""Down to where hidden units whose effects cancel reach a hundred times what the others do."""


def shift(layer: Layer, plan: Plan, rows: Array, strength: float) -> Change | None:
    """Centre every channel, so that a symmetric range has nothing to waste on one side."""
    return partial(_centre, strength=strength) if layer.is_shiftable else None


def search_range(layer: Layer, plan: Plan, rows: Array, strength: float) -> Change | None:
    """Narrow the activation's range where clipping a few costs less than rounding all finer."""
    changes = [partial(_narrow, ratio=ratio) for ratio in RANGE_RATIOS]
    costs = [mean_square(layer, change(layer, plan), rows) for change in changes]
    best = int(np.argmin(costs))
    return changes[best] if costs[best] < mean_square(layer, plan, rows) else None


def correct_bias(layer: Layer, plan: Plan, rows: Array, strength: float) -> Change | None:
    """Take the mean error of each output out through the bias."""
    return partial(_correct, rows=rows) if layer.has_bias else None


STEPS: Mapping[StepName, Step] = {
    "shift": shift,
    "range": search_range,
    "bias": correct_bias,
}


def mean_square(layer: Layer, plan: Plan, rows: Array) -> float:
    """Return the mean square of the layer's output error."""
    return float(np.mean(np.square(output_error(layer, plan, rows))))


def _centre(layer: Layer, plan: Plan, strength: float) -> Plan:
    reach = (layer.high - layer.low) / 2
    divisors = plan.divisors
    if layer.is_foldable:
        divisors = choose_divisors(reach, layer.all_columns, strength)
    centred = plan_minmax(layer, divisors, (layer.high + layer.low) / 2)
    return centred.did(*plan.steps, "shift")


def _narrow(layer: Layer, plan: Plan, ratio: float) -> Plan:
    """Take the end that is farther from zero nearer; both, where they are equally far."""
    reach = ratio * max(plan.high, -plan.low)
    narrow = replace(plan, low=max(plan.low, -reach), high=min(plan.high, reach))
    return narrow.did(f"range {ratio}")


def _correct(layer: Layer, plan: Plan, rows: Array) -> Plan:
    mean = output_error(layer, plan, rows).mean(axis=0) / layer.column_factors
    return replace(plan, correction=plan.correction - mean).did("bias")
