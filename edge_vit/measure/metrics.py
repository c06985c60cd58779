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


def in_top_k(logits: FloatArray, labels: IntArray, k: int) -> BoolArray:
    """Return whether each label is among the `k` largest of its row, (rows,); ties by index.

    Args:
        logits: (rows, classes).
        labels: (rows,), each from 0 to classes - 1.
        k: how many answers count.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead: IntArray = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return ahead < k


def nearest_neighbours(
    queries: FloatArray, gallery: FloatArray, own: IntArray | None = None, block_size: int = 512
) -> IntArray:
    """Return for each query the row of the most similar *other* gallery row by cosine, (rows,).

    Similarities are computed for `block_size` queries at a time, so that memory grows with the
    images and not with their square.

    Args:
        queries: (rows, channels).
        gallery: (pictures, channels), at least two rows.
        own: row of `gallery` that shows each query's own picture, (rows,), which is left out of its
            search; row i for query i where None.
        block_size: queries per block.
    """
    queries, gallery = _unit_rows(queries), _unit_rows(gallery)
    own = np.arange(len(queries)) if own is None else own
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), block_size):
        similarity = queries[start : start + block_size] @ gallery.T
        rows = np.arange(len(similarity))
        similarity[rows, own[start : start + block_size]] = -np.inf
        nearest[start : start + block_size] = np.argmax(similarity, axis=1)
    return nearest


def _unit_rows(rows: FloatArray) -> NDArray[np.float32]:
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norm > 0, norm, 1.0)).astype(np.float32)
