"""How the channels of a layer's input vary together: what error-compensated rounding rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array

CHUNK = 2048  # rows whose products are summed in float32; the sums of chunks are float64


@dataclass(eq=False)
class Gram:
    """Weighted sums over the rows of an activation (rows, K); they add up over images."""

    num_rows: int  # how many rows
    mass: float  # sum of their weights
    total: npt.NDArray[np.float64]  # (K,) float64, their sum
    matrix: npt.NDArray[np.float64]  # (K, K) float64, the sum of ``x^T x``

    @classmethod
    def empty(cls, width: int) -> Gram:
        """Return the sums over no rows."""
        return cls(0, 0.0, np.zeros(width), np.zeros((width, width)))

    def add(self, rows: Array, weights: Array) -> None:
        """Add `rows` to the sums; a few thousand at a time take the least time and memory."""
        self.num_rows += len(rows)
        self.mass += float(weights.sum())
        for start in range(0, len(rows), CHUNK):
            part, counts = rows[start : start + CHUNK], weights[start : start + CHUNK]
            self.total += np.einsum("r,rk->k", counts, part, dtype=np.float64)
            part = part * np.sqrt(counts[:, None], dtype=np.float32)
            self.matrix += part.T @ part

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(K,), of the rows."""
        return self.total / (self.mass or 1.0)

    def moments(self, *, is_centered: bool) -> npt.NDArray[np.float64]:
        """Return the mean of ``x^T x``, (K, K), of rows that their mean was taken from or not."""
        mean = self.mean
        moments: npt.NDArray[np.float64] = self.matrix / (self.mass or 1.0)
        if is_centered:
            for row, value in zip(moments, mean, strict=True):  # an outer product is as large again
                row -= value * mean
        return moments
