"""INT8 levels: scales as the artifacts hold them, and weights in steps of theirs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array
from edge_vit.spec.table import MIN_SCALE

QMAX = 127
"""Largest quantized value; -128 is not used, so that the range is symmetric."""


def round_scale(scale: Array | np.float64) -> npt.NDArray[np.float64]:
    """Return `scale` as float16 can hold it, and at least `MIN_SCALE`.

    Every artifact carries the rounded scale, so that the CPU quantizes as the GPU does.
    """
    return np.maximum(scale, MIN_SCALE).astype(np.float16).astype(np.float64)


def quantize_weight(weight: Array, scales: Array) -> npt.NDArray[np.int8]:
    """Return ``round(weight / scale)``, half to even, in [-127, 127], int8 (K, N)."""
    levels = np.rint(weight.astype(np.float64) / scales)
    return np.clip(levels, -QMAX, QMAX).astype(np.int8)
