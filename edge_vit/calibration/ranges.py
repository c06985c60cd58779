"""Statistics -> scales: how wide the INT8 range of each activation and each weight column is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.stats import ActivationStats
from edge_vit.graph.walk import Array
from edge_vit.lowering.qdq import QMAX, round_scale
from edge_vit.spec.table import Recipe


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
