"""The steps of a recipe: each proposes a change of one layer's plan, by the layer's own output.

All minimise the mean square of the output's error over rows that calibration kept. Whether a
proposal is taken is decided elsewhere, by what it does to the model's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from edge_vit.calibration.fold import choose_divisors
from edge_vit.calibration.layer import Layer, Plan, plan_minmax
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.table import StepName

Change = Callable[[Layer, Plan], Plan]
"""What is done to a plan; the same can be done for other ranges of the layer."""

Step = Callable[[LayerRows, Plan, float], "Change | None"]
"""From a layer with rows of its input, its plan and the fold strength to a change that may pay."""

RANGE_RATIOS = (
    *(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15),
    *(0.1, 0.07, 0.05, 0.03, 0.02, 0.01),
)
"""Down to where hidden units whose effects cancel reach a hundred times what the others do."""


def shift(rows: LayerRows, plan: Plan, strength: float) -> Change | None:
    """Centre every channel, so that a symmetric range has nothing to waste on one side."""
    return partial(_centre, strength=strength) if rows.layer.is_shiftable else None


def search_range(rows: LayerRows, plan: Plan, strength: float) -> Change | None:
    """Narrow the activation's range where clipping a few costs less than rounding all finer.

    Both costs are convex in the end of the range but for chance, when few levels are in use: the
    search stops where the sum has not fallen twice.
    """
    best, lowest, risen = None, rows.mean_square(plan), 0
    for ratio in RANGE_RATIOS:
        change = partial(_narrow, ratio=ratio)
        cost = rows.mean_square(change(rows.layer, plan))
        if cost < lowest:
            best, lowest, risen = change, cost, 0
        elif (risen := risen + 1) == 2:
            break
    return best


def correct_bias(rows: LayerRows, plan: Plan, strength: float) -> Change | None:
    """Take the mean error of each output out through the bias."""
    return partial(_correct, rows=rows) if rows.layer.has_bias else None


STEPS: Mapping[StepName, Step] = {
    "shift": shift,
    "range": search_range,
    "bias": correct_bias,
}


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


def _correct(layer: Layer, plan: Plan, rows: LayerRows) -> Plan:
    mean = rows.output_error(plan).mean(axis=0) / layer.column_factors
    return replace(plan, correction=plan.correction - mean).did("bias")
