"""How far one set of outputs is from another: pure numpy, one number per row or one per set.

Everywhere `reference` and `candidate` are (rows, values) arrays of model outputs, one row per
image; the arithmetic is float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def power_rows(reference: FloatArray, candidate: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Return ``sum reference^2`` and ``sum (reference - candidate)^2`` per row, (rows,) each."""
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    return np.square(a).sum(axis=1), np.square(a - b).sum(axis=1)


def sqnr_db(signal: float, noise: float) -> float | None:
    """Return the signal to quantization noise ratio ``10 log10(signal / noise)`` in decibels.

    Returns:
        None where there is no noise: the ratio is infinite. Minus infinity where there is no
        signal.
    """
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def top1(outputs: FloatArray) -> IntArray:
    """Return the index of the largest value of each row, (rows,); of equal ones the first."""
    best: IntArray = np.argmax(outputs, axis=1)
    return best
