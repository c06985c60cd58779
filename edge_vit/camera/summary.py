"""How the loop stands, and at its end how it went: one value for sinks, reports and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_vit.camera.preprocessing import PreprocessParity
from edge_vit.camera.values import CaptureClock, Counts, SinkStatus, SourceStatus
from edge_vit.spec import Precision


@dataclass(frozen=True)
class Percentiles:
    """A latency, milliseconds; None where too few frames were seen to say it.

    Attributes:
        count: frames that it was taken from.
        max: the largest.
        mean: of all.
    """

    count: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    max: float | None
    mean: float | None = None


@dataclass(frozen=True)
class CameraSummary:
    """The loop's own report: what went in, what came out, how late, under which conditions.

    Attributes:
        model: the bundle's model.
        backend: what runs it.
        precision: which graph.
        threads: of one run.
        batch_size: frames that one run takes at most.
        seconds: since the loop began.
        fps: predictions a second over that time, of all sources together.
        recent_fps: the same over the last seconds.
        sources: how each stands.
        sinks: how each stands.
        latency_ms: from capture to prediction.
        age_ms: of the picture, when the model began with it.
        interval_ms: between two predictions of one source.
        stage_ms: the parts of the latency, by `edge_vit.camera.values.STAGES`.
        clocks: whose capture stamps `latency_ms` and `age_ms` were taken from.
        degraded: why another session runs than the one that was asked for; else empty.
        preprocessing: which backend made the model's input, and why.
        parity: how it, and those that were refused, compare with the reference.
    """

    model: str
    backend: str
    precision: Precision
    threads: int
    batch_size: int
    seconds: float
    fps: float
    recent_fps: float
    sources: tuple[SourceStatus, ...]
    sinks: tuple[SinkStatus, ...]
    latency_ms: Percentiles
    age_ms: Percentiles
    interval_ms: Percentiles
    stage_ms: Mapping[str, Percentiles] = field(default_factory=dict)
    clocks: tuple[CaptureClock, ...] = ()
    degraded: str = ""
    preprocessing: str = ""
    parity: tuple[PreprocessParity, ...] = ()

    @property
    def counts(self) -> Counts:
        """The frames of all sources together."""
        every = [source.counts for source in self.sources]
        return Counts(
            captured=sum(counts.captured for counts in every),
            answered=sum(counts.answered for counts in every),
            dropped=sum(counts.dropped for counts in every),
            failed=sum(counts.failed for counts in every),
            in_flight=sum(counts.in_flight for counts in every),
        )
