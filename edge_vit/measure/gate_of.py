"""One gate of one report, and the outcome of an interval against a limit."""

from __future__ import annotations

from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport, Outcome
from edge_vit.measure.statistics import CONFIDENCE, Interval


def gate_of(
    report: AccuracyReport | LatencyReport,
    name: str,
    limit: float,
    sentence: str,
    outcome: Outcome = "undecided",
    value: float | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
    *,
    images: int | None = None,
    runs: int | None = None,
    confidence: float = CONFIDENCE,
) -> Gate:
    """Return the gate `name` of `report`; `images` and `runs` are how many would decide it."""
    low, high = bounds
    return Gate(
        name=name,
        precision=report.precision,
        outcome=outcome,
        limit=limit,
        value=value,
        low=low,
        high=high,
        sentence=sentence,
        images_needed=images,
        runs_needed=runs,
        backend=report.backend,
        confidence=confidence,
    )


def outcome_of(bounds: Interval, limit: float) -> Outcome:
    """Return ``pass`` where all of `bounds` is within `limit`, ``fail`` where all is beyond it."""
    return "pass" if bounds.high <= limit else "fail" if bounds.low > limit else "undecided"
