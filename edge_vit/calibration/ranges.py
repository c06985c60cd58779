"""Statistics -> scales: how wide the INT8 range of each activation and each weight column is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.stats import ActivationStats
from edge_vit.graph.walk import Array
from edge_vit.table import MIN_SCALE, Recipe

QMAX = 127
"""Largest quantized value; -128 is not used, so that the range is symmetric."""


def activation_scale(
    stats: ActivationStats, recipe: Recipe, divisors: Array | None = None
) -> float:
    """Return the per-tensor scale of an activation, rounded to float16.

    Args:
        stats: of the activation as the unfolded model has it.
        recipe: how a range follows from them.
        divisors: (K,), by which folding divides its channels.
    """
    if recipe.range_method == "percentile":
        amax = stats.percentile(recipe.percentile)
    else:
        amax = float((stats.channel_amax / (1 if divisors is None else divisors)).max())
    return float(round_scale(np.float64(amax / QMAX)))


def weight_scales(weight: Array) -> npt.NDArray[np.float64]:
    """Return the scale of each output channel, (N,), of a weight (K, N), rounded to float16."""
    return round_scale(np.abs(weight).max(axis=0).astype(np.float64) / QMAX)


def round_scale(scale: Array | np.float64) -> npt.NDArray[np.float64]:
    """Return `scale` as float16 can hold it, and at least `MIN_SCALE`.

    Every artifact carries the rounded scale, so that the CPU quantizes as the GPU does.
    """
    return np.maximum(scale, MIN_SCALE).astype(np.float16).astype(np.float64)


def quantize_weight(weight: Array, scales: Array) -> npt.NDArray[np.int8]:
    """Return ``round(weight / scale)``, half to even, in [-127, 127]: int8 (K, N).

    Args:
        weight: float32 (K, N).
        scales: (N,).
    """
    levels = np.rint(weight.astype(np.float64) / scales)
    return np.clip(levels, -QMAX, QMAX).astype(np.int8)
