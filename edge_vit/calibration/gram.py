"""How the channels of a layer's input vary together: what error-compensated rounding rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array

_CHUNK = 2048  # rows whose products are summed in float32; the sums of chunks are float64


@dataclass(frozen=True, eq=False)
class Gram:
    """Weighted sums over the rows of an activation (rows, K); they add up over images."""

    num_rows: int  # how many rows
    mass: float  # sum of their weights
    total: npt.NDArray[np.float64]  # (K,) float64, their sum
    matrix: npt.NDArray[np.float64]  # (K, K) float64, the sum of ``x^T x``

    @classmethod
    def of(cls, rows: Array, weights: Array | None = None) -> Gram:
        """Return the sums over `rows`, float32 (R, K), each times its weight, (R,)."""
        if weights is None:
            weights = np.ones(len(rows), np.float32)
        width = rows.shape[1]
        matrix, roots = np.zeros((width, width)), np.sqrt(weights, dtype=np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK] * roots[start : start + _CHUNK, None]
            matrix += part.T @ part
        total = weights @ rows.astype(np.float64)
        return cls(len(rows), float(weights.sum()), total, matrix)

    def merge(self, other: Gram) -> Gram:
        """Return the sums over the rows of both."""
        return Gram(
            self.num_rows + other.num_rows,
            self.mass + other.mass,
            self.total + other.total,
            self.matrix + other.matrix,
        )

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(K,), of the rows."""
        return self.total / (self.mass or 1.0)

    def moments(self, *, is_centered: bool) -> npt.NDArray[np.float64]:
        """Return the mean of ``x^T x``, (K, K), of rows that their mean was taken from or not."""
        mean = self.mean
        moments: npt.NDArray[np.float64] = self.matrix / (self.mass or 1.0)
        return moments - np.outer(mean, mean) if is_centered else moments
