"""What the page shows beside the picture: rates, latencies by stage, sensors, and their past."""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from edge_vit.camera.sinks.record import prediction_record
from edge_vit.camera.summary import CameraSummary
from edge_vit.camera.values import STAGES, CameraPrediction
from edge_vit.device.telemetry import Telemetry
from edge_vit.values import to_json

BINS_PER_DECADE = 8
FIRST_DECADE, NUM_DECADES = -1, 5
"""Bins of the histograms: from 0.1 ms to 10 s."""

NUM_BINS = BINS_PER_DECADE * NUM_DECADES
WINDOW_S = 30.0
HISTORY = 120

Bins = dict[str, list[int]]


class Figures:
    """Counts latencies of the last half minute to minute, and keeps two minutes of the past."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._now, self._before = _empty(), _empty()
        self._turned_s = clock()
        self._fresh: deque[float] = deque(maxlen=1000)  # latencies since the last point, ms
        self._past: deque[dict[str, float | None]] = deque(maxlen=HISTORY)

    def add(self, prediction: CameraPrediction) -> None:
        """Count the stages of `answer`."""
        stamps = prediction.frame.stamps
        with self._lock:
            self._fresh.append(stamps.latency_ms)
            if self._clock() - self._turned_s >= WINDOW_S:
                self._now, self._before = _empty(), self._now
                self._turned_s = self._clock()
            for stage, value in {"latency": stamps.latency_ms, **stamps.stage_ms()}.items():
                self._now[stage][bin_of(value)] += 1

    def bins(self) -> Bins:
        """Return how often which latency came, for all of it and each stage."""
        with self._lock:
            return {
                stage: [sum(pair) for pair in zip(counts, self._before[stage], strict=True)]
                for stage, counts in self._now.items()
            }

    def sample(self, summary: CameraSummary, reading: Telemetry | None) -> None:
        """Add a point to the past."""
        point: dict[str, float | None] = {
            "fps": summary.recent_fps,
            "latency": None,
            "power": reading.power_w if reading else None,
            "temperature": hottest(reading),
        }
        with self._lock:
            if self._fresh:
                point["latency"] = statistics.median(self._fresh)
                self._fresh.clear()
            self._past.append(point)

    def past(self) -> dict[str, list[float | None]]:
        """Return the past by figure, oldest first."""
        with self._lock:
            points = list(self._past)
        names = ("fps", "latency", "power", "temperature")
        return {name: [_rounded(point[name]) for point in points] for name in names}


def page_state(
    summary: CameraSummary,
    figures: Figures,
    predictions: dict[str, CameraPrediction],
    reading: Telemetry | None,
) -> dict[str, Any]:
    """Return all that the page shows, as what JSON takes."""
    return {
        "summary": to_json(summary),
        "counts": to_json(summary.counts),
        "answers": {
            source: prediction_record(prediction) for source, prediction in predictions.items()
        },
        "bins": figures.bins(),
        "scale": {"first_decade": FIRST_DECADE, "per_decade": BINS_PER_DECADE},
        "past": figures.past(),
        "telemetry": None if reading is None else to_json(reading),
        "hottest": hottest(reading),
    }


def hottest(reading: Telemetry | None) -> float | None:
    """Return the highest temperature, °C."""
    return max(reading.temperatures_c.values(), default=None) if reading else None


def bin_of(value_ms: float) -> int:
    """Return the bin of a latency; what lies outside goes into the first or the last."""
    if value_ms <= 0:
        return 0
    place = math.floor((math.log10(value_ms) - FIRST_DECADE) * BINS_PER_DECADE)
    return min(max(place, 0), NUM_BINS - 1)


def _empty() -> Bins:
    return {stage: [0] * NUM_BINS for stage in ("latency", *STAGES)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
