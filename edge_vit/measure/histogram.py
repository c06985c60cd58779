"""Latencies in logarithmic buckets: constant memory for weeks of running."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_vit.errors import SpecError

GROWTH = 1.01
"""Each bucket ends 1 % above where it begins: its middle is within 0.5 % of all that it holds."""

_LEAST_NS = 1_000  # what is faster counts as a microsecond
_LOG_GROWTH = math.log(GROWTH)
_NUM_BUCKETS = 2_400  # the last begins at 6.4 hours and holds what is slower too


@dataclass(frozen=True)
class Histogram:
    """How often which latency came: percentiles are within 1 % of the exact ones.

    `counts` are (bucket, how many) by rising bucket, empty ones left out. Bucket i holds
    ``1.01^i`` to ``1.01^(i + 1)`` microseconds.
    """

    counts: tuple[tuple[int, int], ...] = ()
    total_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0

    @property
    def count(self) -> int:
        """How many latencies it holds."""
        return sum(count for _, count in self.counts)

    @property
    def mean_ms(self) -> float:
        """The exact mean."""
        self._check_not_empty()
        return self.total_ns / self.count / 1e6

    def value_ms(self, rank: int) -> float:
        """Return the latency of `rank` in rising order, the shortest being 0, within 1 %."""
        seen = 0
        for bucket, count in self.counts:
            seen += count
            if 0 <= rank < seen:
                middle = _LEAST_NS * math.exp(_LOG_GROWTH * (bucket + 0.5))
                return min(max(middle, self.min_ns), self.max_ns) / 1e6
        raise SpecError(f"rank: got {rank}, expected 0 to {self.count - 1}")

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that `percent` of all do not exceed, by linear interpolation."""
        self._check_not_empty()
        if not 0 <= percent <= 100:
            raise SpecError(f"percent: got {percent}, expected 0 to 100")
        place = percent / 100 * (self.count - 1)
        low, high = self.value_ms(math.floor(place)), self.value_ms(math.ceil(place))
        return low + (place - math.floor(place)) * (high - low)

    def _check_not_empty(self) -> None:
        if not self.counts:
            raise SpecError("histogram: got no latency, expected at least 1")


class HistogramCounter:
    """Counts latencies as they come; its memory is fixed. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._counts = np.zeros(_NUM_BUCKETS, dtype=np.int64)
        self._total = self._max = 0
        self._min = _LEAST_NS << 60

    def add(self, latency_ns: int) -> None:
        """Count one latency, nanoseconds; what is below 0 counts as 0."""
        latency_ns = max(0, latency_ns)
        bucket = 0
        if latency_ns > _LEAST_NS:
            bucket = min(int(math.log(latency_ns / _LEAST_NS) / _LOG_GROWTH), _NUM_BUCKETS - 1)
        self._counts[bucket] += 1
        self._total += latency_ns
        self._min = min(self._min, latency_ns)
        self._max = max(self._max, latency_ns)

    def add_ms(self, latency_ms: float) -> None:
        """Count one latency, milliseconds."""
        self.add(round(latency_ms * 1e6))

    def histogram(self) -> Histogram:
        """Return what has been counted so far."""
        filled = np.flatnonzero(self._counts).tolist()
        if not filled:
            return Histogram()
        counts = tuple((bucket, int(self._counts[bucket])) for bucket in filled)
        return Histogram(counts, self._total, self._min, self._max)
