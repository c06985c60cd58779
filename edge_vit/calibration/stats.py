"""Statistics of an activation that fit in fixed memory and add up over images, shards, machines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_vit.graph.walk import Array

_BIN_SHIFT = 18
"""Bits of a float32 below the bin: 8 bits of exponent and 5 of mantissa stay, 32 bins an octave."""

_SQUARE_UNIT = -320
"""Sums of squares are integers in units of 2**-320, less than any float32's: they add exactly."""

NUM_BINS = 1 << (31 - _BIN_SHIFT)


@dataclass(frozen=True)
class ActivationStats:
    """What is known of one activation (rows, channels)."""

    num_rows: int  # tokens that were seen
    channel_max: npt.NDArray[np.float32]  # (channels,) float32, largest value of each channel
    channel_min: npt.NDArray[np.float32]  # (channels,) float32, smallest
    square_sum: int  # of all elements, in units of 2**-320: an integer, which adds without error
    # (NUM_BINS,) int64, of absolute values; bin ``i`` starts at ``bin_edges()[i]``. Empty where
    # none was asked for: it is two thirds of the work.
    histogram: npt.NDArray[np.int64]

    @classmethod
    def of(cls, activation: Array, *, has_histogram: bool = True) -> ActivationStats:
        """Return the statistics of `activation`, float32 (..., channels)."""
        rows = np.ascontiguousarray(activation, np.float32).reshape(-1, activation.shape[-1])
        high, low = rows.max(axis=0), rows.min(axis=0)
        return cls(
            num_rows=len(rows),
            channel_max=high,
            channel_min=low,
            square_sum=_sum_squares(rows, max(float(high.max()), -float(low.min()))),
            histogram=_count(rows) if has_histogram else np.zeros(0, np.int64),
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
            square_sum=self.square_sum + other.square_sum,
            histogram=self.histogram + other.histogram,
        )

    def as_of(self, num_rows: int) -> ActivationStats:
        """Return the same as if so many rows like these had been seen."""
        squares = self.square_sum * num_rows // self.num_rows
        return replace(self, num_rows=num_rows, square_sum=squares)

    @property
    def is_finite(self) -> bool:
        """Whether neither NaN nor infinity was seen."""
        return bool(np.isfinite(self.channel_max).all() and np.isfinite(self.channel_min).all())

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
        """Amax over root mean square: how much of an INT8 range outliers take.

        At least 1, but 0 where all is zero.
        """
        if not self.square_sum:
            return 0.0
        mean = math.ldexp(self.square_sum, _SQUARE_UNIT) / (self.num_rows * len(self.channel_max))
        return max(1.0, self.amax / math.sqrt(mean))

    def percentile(self, percent: float) -> float:
        """Return the |x| that `percent` of all elements do not pass, up to a bin's width (3 %).

        It is the upper edge of the bin, and never more than `amax`.
        """
        counts = np.cumsum(self.histogram)
        index = int(np.searchsorted(counts, counts[-1] * percent / 100))
        return min(float(bin_edges()[index + 1]), self.amax)


def _sum_squares(rows: npt.NDArray[np.float32], amax: float) -> int:
    """Return the sum of squares in units of 2**-320; 0 where something is not finite."""
    if not 0 < amax < math.inf:
        return 0
    unit = 1.0 if 1e-6 < amax < 1e6 else amax  # float32 neither overflows nor loses small ones
    ratios = rows if unit == 1 else rows / np.float32(unit)
    return int(math.ldexp(float(np.vdot(ratios, ratios)) * unit**2, -_SQUARE_UNIT))


def _count(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    bits = rows.view(np.uint32) & np.uint32(0x7FFFFFFF)
    bits >>= _BIN_SHIFT
    return np.bincount(bits.reshape(-1), minlength=NUM_BINS)


def bin_edges() -> npt.NDArray[np.float32]:
    """Return the lower edge of each histogram bin, and one upper edge: (NUM_BINS + 1,) float32."""
    bits = np.arange(NUM_BINS + 1, dtype=np.uint32) << np.uint32(_BIN_SHIFT)
    bits[-1] = bits[-2]
    edges: npt.NDArray[np.float32] = bits.view(np.float32)
    return edges
