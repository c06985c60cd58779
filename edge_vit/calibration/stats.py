"""Statistics of an activation that fit in fixed memory and add up over images, shards, machines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array

_BIN_SHIFT = 18
"""Bits of a float32 below the bin: 8 bits of exponent and 5 of mantissa stay, 32 bins an octave."""

_SUM_GRID = 2.0**20
"""Sums are rounded to multiples of 1 / grid: float64 adds those without error up to 2**33."""

NUM_BINS = 1 << (31 - _BIN_SHIFT)
_FIRST_NONFINITE = 0xFF << (23 - _BIN_SHIFT)


@dataclass(frozen=True)
class ActivationStats:
    """What is known of one activation (rows, channels).

    Attributes:
        num_rows: tokens that were seen.
        channel_max: (channels,) float32, largest value of each channel.
        channel_min: (channels,) float32, smallest.
        channel_sum: (channels,) float64, multiples of 2**-20.
        histogram: (NUM_BINS,) int64, of absolute values; bin ``i`` starts at ``bin_edges()[i]``.
    """

    num_rows: int
    channel_max: npt.NDArray[np.float32]
    channel_min: npt.NDArray[np.float32]
    channel_sum: npt.NDArray[np.float64]
    histogram: npt.NDArray[np.int64]

    @classmethod
    def of(cls, activation: Array) -> ActivationStats:
        """Return the statistics of `activation`, float32 (..., channels)."""
        rows = np.ascontiguousarray(activation, np.float32).reshape(-1, activation.shape[-1])
        bits = rows.view(np.uint32) & np.uint32(0x7FFFFFFF)
        bits >>= _BIN_SHIFT
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the histogram
            total = rows.sum(axis=0, dtype=np.float64)
        return cls(
            num_rows=len(rows),
            channel_max=rows.max(axis=0),
            channel_min=rows.min(axis=0),
            channel_sum=np.rint(total * _SUM_GRID) / _SUM_GRID,
            histogram=np.bincount(bits.reshape(-1), minlength=NUM_BINS),
        )

    def merge(self, other: ActivationStats) -> ActivationStats:
        """Return the statistics of what both have seen.

        Associative and commutative to the last bit, so that neither the order of the images nor
        how they were spread over machines shows in a table.
        """
        return ActivationStats(
            num_rows=self.num_rows + other.num_rows,
            channel_max=np.maximum(self.channel_max, other.channel_max),
            channel_min=np.minimum(self.channel_min, other.channel_min),
            channel_sum=self.channel_sum + other.channel_sum,
            histogram=self.histogram + other.histogram,
        )

    @property
    def is_finite(self) -> bool:
        """Whether neither NaN nor infinity was seen."""
        return not self.histogram[_FIRST_NONFINITE:].any()

    @property
    def channel_amax(self) -> npt.NDArray[np.float32]:
        """(channels,) float32, largest |x| of each channel."""
        return np.maximum(self.channel_max, -self.channel_min)

    @property
    def amax(self) -> float:
        """Largest |x|."""
        return float(self.channel_amax.max())

    @property
    def crest(self) -> float:
        """Amax over root mean square, up to 2 %: how much of an INT8 range outliers take.

        At least 1, but 0 where all is zero.
        """
        bins = np.flatnonzero(self.histogram)
        edges = bin_edges()
        middles = (edges[bins].astype(np.float64) + edges[bins + 1]) / 2
        rms = np.sqrt(np.average(middles**2, weights=self.histogram[bins]))
        return max(1.0, float(self.amax / rms)) if self.amax > 0 else 0.0

    def percentile(self, percent: float) -> float:
        """Return the |x| that `percent` of all elements do not pass, up to a bin's width (3 %).

        It is the upper edge of the bin, and never more than `amax`.
        """
        counts = np.cumsum(self.histogram)
        index = int(np.searchsorted(counts, counts[-1] * percent / 100))
        return min(float(bin_edges()[index + 1]), self.amax)


def bin_edges() -> npt.NDArray[np.float32]:
    """Return the lower edge of each histogram bin, and one upper edge: (NUM_BINS + 1,) float32."""
    bits = np.arange(NUM_BINS + 1, dtype=np.uint32) << np.uint32(_BIN_SHIFT)
    bits[-1] = bits[-2]
    edges: npt.NDArray[np.float32] = bits.view(np.float32)
    return edges
