"""How the channels of a layer's input vary together: what error-compensated rounding rests on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array

_CHUNK = 2048  # rows whose products are summed in float32; the sums of chunks are float64


@dataclass(frozen=True, eq=False)
class Gram:
    """Sums over the rows of an activation (rows, K); they add up over images and machines.

    Attributes:
        num_rows: how many rows.
        total: (K,) float64, their sum.
        matrix: (K, K) float64, the sum of ``x^T x``.
    """

    num_rows: int
    total: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Array) -> Gram:
        """Return the sums over `rows`, float32 (R, K)."""
        width = rows.shape[1]
        matrix = np.zeros((width, width))
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            matrix += part.T @ part
        return cls(len(rows), rows.sum(axis=0, dtype=np.float64), matrix)

    def merge(self, other: Gram) -> Gram:
        """Return the sums over the rows of both."""
        return Gram(
            self.num_rows + other.num_rows, self.total + other.total, self.matrix + other.matrix
        )

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """(K,), of the rows."""
        return self.total / max(1, self.num_rows)

    def moments(self, *, is_centered: bool) -> npt.NDArray[np.float64]:
        """Return the mean of ``x^T x``, (K, K), of rows that their mean was taken from or not."""
        mean = self.mean
        moments: npt.NDArray[np.float64] = self.matrix / max(1, self.num_rows)
        return moments - np.outer(mean, mean) if is_centered else moments
