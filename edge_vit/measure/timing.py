"""The parts of a latency report: percentiles, stages, cold start, energy and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scenario = Literal["saturated", "paced", "single-stream", "multi-stream", "offline"]
"""How runs follow each other: see `edge_vit.measure.scenarios`."""

MAX_SAMPLES = 100_000
"""Runs whose own time a report keeps; its histogram counts all."""


@dataclass(frozen=True)
class LatencySummary:
    """Latency in milliseconds; percentiles by linear interpolation between order statistics.

    `p99` is that of the sample, however few runs there were; `LatencyReport.percentiles` say what
    is known of it.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class Percentile:
    """One percentile of the latency, with the interval that order statistics give it.

    Attributes:
        percent: which one, such as 99.9.
        ms: None where fewer than ten runs lie beyond it: p99 takes 1,000 runs, p99.9 10,000.
        low_ms: lower end of its two-sided 95 % interval; None where the sample has none.
        high_ms: upper end, likewise.
    """

    percent: float
    ms: float | None
    low_ms: float | None
    high_ms: float | None


@dataclass(frozen=True)
class Stage:
    """A part of the way from an image to its answer, over all runs, in milliseconds.

    Attributes:
        name: ``decode`` (an image file), ``preprocess`` (resize and crop), ``host-to-device``,
            ``GPU``, ``device-to-host``, ``run`` (the call of `Session.run` as a whole) or
            ``end-to-end`` (preprocess, run and reading the answer, as for a camera's frame).
    """

    name: str
    p50_ms: float
    p90_ms: float
    mean_ms: float


@dataclass(frozen=True)
class ColdStart:
    """From nothing to the first answer, in a process of its own that did nothing else.

    Attributes:
        process_ms: starting Python and importing edge-vit and numpy.
        load_ms: importing the backend, and loading the model, its digest checked.
        first_run_ms: the first run, which later ones are quicker than.
        memory_peak_mib: most memory that the process held until then; None where not told.
    """

    process_ms: float
    load_ms: float
    first_run_ms: float
    memory_peak_mib: float | None


@dataclass(frozen=True)
class Energy:
    """What the timed runs drew.

    Attributes:
        joules_per_image: of the whole of `source`, idle power included.
        mean_w: mean power while timing.
        source: what was measured, such as ``VDD_IN`` or ``NVML``.
    """

    joules_per_image: float
    mean_w: float
    source: str


@dataclass(frozen=True)
class TimingWarning:
    """What makes a latency doubtful, or could be done better.

    Attributes:
        name: ``launch-bound``, ``transfer-bound``, ``unsteady`` or ``throttled``.
        sentence: what was seen, and what to do.
    """

    name: str
    sentence: str
