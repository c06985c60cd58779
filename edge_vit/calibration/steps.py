"""What a recipe tries on a layer: how a plan follows from a few choices, and the choices there are.

What comes out is judged elsewhere, by the model's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edge_vit.calibration.layer import (
    Layer,
    Plan,
    compensate,
    give_zero_point,
    plan_minmax,
    round_weight,
)
from edge_vit.calibration.layer_rows import LayerRows, round_to_levels
from edge_vit.lowering.smoothing import choose_divisors
from edge_vit.spec.table import Recipe

RANGE_RATIOS = (
    *(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15),
    *(0.1, 0.07, 0.05, 0.03, 0.02, 0.01),
)
"""Down to where hidden units whose effects cancel reach a hundred times what the others do."""

KEPT = "channels in floating point"
"""Among the steps of a plan: so many channels of the input are not quantized."""

MAX_SMOOTHINGS = 2
"""How many smoothings of a layer the output is asked about, beside the one that it begins with."""

_NEAR = 1.5  # times the least rounding noise: smoothings above it are not worth a run of the model


@dataclass(frozen=True)
class Choice:
    """What is chosen for one layer; a plan follows from it."""

    strength: float = 0.0  # of smoothing
    is_shifted: bool = False  # channels are centred
    ratio: float = 1.0  # of the range to what was seen
    keeps_outliers: bool = False  # in floating point


def make_plan(layer: Layer, choice: Choice, recipe: Recipe, *, compensated: bool = False) -> Plan:
    """Return the plan that `choice` makes of `layer`, its bias not corrected for the activation."""
    if choice.keeps_outliers:
        layer = layer.without_outliers()
    plan = _smooth(layer, choice)
    if choice.keeps_outliers:
        number = len(layer.outliers)
        plan = replace(plan, kept=layer.outliers).did(f"{KEPT} ({number})")
    if recipe.has_zero_points:
        plan = give_zero_point(layer, plan)
    if compensated:
        plan = compensate(layer, plan)
    if choice.ratio > 1:
        plan = plan.did(f"range {choice.ratio:g}")
    return scale_range(plan, choice.ratio)


def scale_range(plan: Plan, ratio: float) -> Plan:
    """Return `plan` with its range so many times as wide.

    Narrower, the end that is farther from zero comes nearer; both, where they are equally far.
    """
    if ratio == 1:
        return plan
    if ratio > 1:
        return replace(plan, low=ratio * plan.low, high=ratio * plan.high)
    reach = ratio * max(plan.high, -plan.low)
    return replace(plan, low=max(plan.low, -reach), high=min(plan.high, reach))


def smoothings(layer: Layer, first: Choice, recipe: Recipe) -> list[Choice]:
    """Return the smoothings worth a look, by the noise that rounding the activation makes."""
    if not layer.is_foldable:
        return []
    shifts = (False, True) if "shift" in recipe.steps and layer.is_shiftable else (False,)
    strengths = {first.strength, *recipe.strengths}
    choices = {replace(first, strength=s, is_shifted=c) for s in strengths for c in shifts}
    noise = {choice: rounding_noise(layer, make_plan(layer, choice, recipe)) for choice in choices}
    others = sorted(choices - {first}, key=lambda choice: (noise[choice], choice.strength))
    least = min(noise.values())
    return [choice for choice in others if noise[choice] <= _NEAR * least][:MAX_SMOOTHINGS]


def rounding_noise(layer: Layer, plan: Plan) -> float:
    """Return the energy that rounding the activation adds to an output row, in its own units."""
    rows = np.square(plan.divisors * np.linalg.norm(layer.weight * layer.column_factors, axis=1))
    return float(plan.input_scale**2 / 12 * rows.sum())


def narrowest_useful(rows: LayerRows, plan: Plan) -> float:
    """Return the ratio of the range at which clipping and rounding cost the layer's rows least.

    Both costs are convex in the end of the range but for chance, when few levels are in use: the
    search stops where the sum has not fallen twice.
    """
    best, lowest, risen = 1.0, rows.mean_square(plan), 0
    for ratio in RANGE_RATIOS:
        cost = rows.mean_square(scale_range(plan, ratio))
        if cost < lowest:
            best, lowest, risen = ratio, cost, 0
        elif (risen := risen + 1) == 2:
            break
    return best


def correct_bias(rows: LayerRows, plan: Plan) -> Plan:
    """Return `plan` with the mean error of rounding the activation taken out by the bias."""
    if not rows.layer.has_bias:
        return plan
    folded = (rows.rows - plan.offsets) / plan.divisors
    error = round_to_levels(folded, plan.input_scale, plan.input_zero) - folded
    mean = rows.weights @ error / len(error) @ (round_weight(rows.layer, plan) * plan.weight_scales)
    return replace(plan, correction=plan.correction - mean.astype(np.float32)).did("bias")


def _smooth(layer: Layer, choice: Choice) -> Plan:
    if layer.given is not None:
        plan = plan_minmax(layer, layer.given.divisors, layer.given.offsets)
        return plan.did(*(s for s in layer.given.steps if s.startswith(("smoothing", "shift"))))
    if not layer.is_foldable or not (choice.strength or choice.is_shifted):
        return plan_minmax(layer)
    offsets = (layer.high + layer.low) / 2 if choice.is_shifted else None
    amax = np.maximum(layer.high, -layer.low)
    reach = (layer.high - layer.low) / 2 if choice.is_shifted else amax
    divisors = None
    if choice.strength:
        divisors = choose_divisors(reach, layer.all_columns, choice.strength)
    steps = [f"smoothing {choice.strength:g}"] if choice.strength else []
    return plan_minmax(layer, divisors, offsets).did(*steps, *["shift"] * choice.is_shifted)
