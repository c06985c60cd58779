"""Latencies and rates of the loop, in memory that does not grow."""

from __future__ import annotations

import threading
from collections import deque

from edge_vit.camera.summary import Percentiles
from edge_vit.camera.values import STAGES, CaptureClock, Stamps
from edge_vit.measure.histogram import Histogram, HistogramCounter

_RECENT_SECONDS = 5
_NEEDED = {50.0: 1, 90.0: 10, 99.0: 1000, 99.9: 10_000}
"""Percentile -> how many frames it takes to say it."""


class LoopMetrics:
    """Counts the stamps of answered frames; safe for several threads."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._lock = threading.Lock()
        self._latency, self._age, self._interval = (HistogramCounter() for _ in range(3))
        self._stages = {stage: HistogramCounter() for stage in STAGES}
        self._clocks: set[CaptureClock] = set()
        self._num_predictions = 0
        self._last_prediction_ns: dict[str, int] = {}
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_RECENT_SECONDS + 1)

    def add(self, source: str, stamps: Stamps) -> None:
        """Count the answer to one frame of `source`."""
        second = stamps.predicted_ns // 10**9
        with self._lock:
            self._num_predictions += 1
            self._clocks.add(stamps.clock)
            self._latency.add(stamps.predicted_ns - stamps.captured_ns)
            self._age.add(stamps.infer_start_ns - stamps.captured_ns)
            for stage, duration_ms in stamps.stage_ms().items():
                self._stages[stage].add_ms(duration_ms)
            last_ns = self._last_prediction_ns.get(source)
            if last_ns is not None:
                self._interval.add(stamps.predicted_ns - last_ns)
            self._last_prediction_ns[source] = stamps.predicted_ns
            if self._seconds and self._seconds[-1][0] == second:
                self._seconds[-1] = (second, self._seconds[-1][1] + 1)
            else:
                self._seconds.append((second, 1))

    def histograms(self) -> dict[str, Histogram]:
        """Return all that was counted: ``latency``, ``age``, ``interval``, and each stage."""
        with self._lock:
            named = {"latency": self._latency, "age": self._age, "interval": self._interval}
            return {
                name: counter.histogram() for name, counter in {**named, **self._stages}.items()
            }

    @property
    def clocks(self) -> tuple[CaptureClock, ...]:
        """Whose capture stamps were counted."""
        with self._lock:
            return tuple(sorted(self._clocks))

    def fps(self, now_ns: int) -> float:
        """Return answers a second since the beginning."""
        return self._num_predictions / max((now_ns - self.start_ns) / 1e9, 1e-9)

    def recent_fps(self, now_ns: int) -> float:
        """Return answers a second over the last whole seconds."""
        second = now_ns // 10**9
        whole = min(_RECENT_SECONDS, second - self.start_ns // 10**9)
        if whole < 1:
            return self.fps(now_ns)
        with self._lock:
            counts = [count for when, count in self._seconds if second - whole <= when < second]
        return sum(counts) / whole


def percentiles_of(histogram: Histogram) -> Percentiles:
    """Return the percentiles that `histogram` holds enough latencies for, milliseconds."""
    count = histogram.count
    p50, p90, p99, p999 = (
        histogram.percentile_ms(percent) if count >= needed else None
        for percent, needed in _NEEDED.items()
    )
    most, mean = (histogram.max_ns / 1e6, histogram.mean_ms) if count else (None, None)
    return Percentiles(count, p50, p90, p99, p999, most, mean)
