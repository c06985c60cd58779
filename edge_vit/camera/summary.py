"""The loop's own report: frame counts, rates and latencies, as a value and in lines for people."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edge_vit.camera import values
from edge_vit.measure.histogram import Histogram, HistogramCounter
from edge_vit.spec import Precision

_RECENT_SECONDS = 5
_NEEDED = {50.0: 1, 90.0: 10, 99.0: 1000, 99.9: 10_000}
"""Percentile -> the frames that it takes to know it."""

_CLOCKS = {"driver": "the driver's stamp", "arrival": "the frame's arrival"}


@dataclass(frozen=True)
class Percentiles:
    """A latency over `count` frames, milliseconds; None where they are too few to know it."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    max: float | None
    mean: float | None = None


@dataclass(frozen=True)
class CameraSummary:
    """What went in, what came out, how late, under which conditions."""

    model: str
    backend: str
    precision: Precision
    threads: int  # of one run of the model
    batch_size: int  # frames that one run takes at most
    seconds: float  # since the loop began
    fps: float  # predictions a second over that time, of all sources together
    recent_fps: float  # the same over the last seconds
    sources: tuple[values.SourceStatus, ...]
    sinks: tuple[values.SinkStatus, ...]
    latency_ms: Percentiles  # from capture to prediction
    age_ms: Percentiles  # of the picture, when the model began with it
    interval_ms: Percentiles  # between two predictions of one source
    stage_ms: Mapping[str, Percentiles] = field(default_factory=dict)  # by `STAGES`
    clocks: tuple[values.CaptureClock, ...] = ()  # that stamped the captures
    degraded: str = ""  # why another session runs than the one that was asked for
    preprocessing: str = ""  # which backend makes the model's input, and why
    remark: str = ""  # what a reader of the predictions has to know of the session

    @property
    def counts(self) -> values.Counts:
        """The frames of all sources together."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(asdict(source.counts))
        return values.Counts(**total)


class LoopMetrics:
    """Latencies and rates of predicted frames, in fixed memory; safe for several threads."""

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._lock = threading.Lock()
        names = ("latency", "age", "interval", *values.STAGES)
        self._counters = {name: HistogramCounter() for name in names}
        self._clocks: set[values.CaptureClock] = set()
        self._num_predictions = 0
        self._last_ns: dict[str, int] = {}  # source -> its last prediction
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_RECENT_SECONDS + 1)

    def add(self, source: str, stamps: values.Stamps) -> None:
        """Count one predicted frame of `source`."""
        second = stamps.predicted_ns // 10**9
        latencies = {"latency": stamps.latency_ms, "age": stamps.age_ms, **stamps.stage_ms()}
        with self._lock:
            self._num_predictions += 1
            self._clocks.add(stamps.clock)
            if (last_ns := self._last_ns.get(source)) is not None:
                latencies["interval"] = (stamps.predicted_ns - last_ns) / 1e6
            self._last_ns[source] = stamps.predicted_ns
            for name, value_ms in latencies.items():
                self._counters[name].add_ms(value_ms)
            if self._seconds and self._seconds[-1][0] == second:
                self._seconds[-1] = (second, self._seconds[-1][1] + 1)
            else:
                self._seconds.append((second, 1))

    def percentiles(self) -> dict[str, Percentiles]:
        """Return ``latency``, ``age``, ``interval`` and each stage."""
        with self._lock:
            histograms = {name: each.histogram() for name, each in self._counters.items()}
        return {name: percentiles_of(histogram) for name, histogram in histograms.items()}

    @property
    def clocks(self) -> tuple[values.CaptureClock, ...]:
        """What stamped the captures."""
        with self._lock:
            return tuple(sorted(self._clocks))

    def fps(self, now_ns: int) -> float:
        """Return predictions a second since the beginning."""
        return self._num_predictions / max((now_ns - self.start_ns) / 1e9, 1e-9)

    def recent_fps(self, now_ns: int) -> float:
        """Return predictions a second over the last whole seconds."""
        second = now_ns // 10**9
        whole = min(_RECENT_SECONDS, second - self.start_ns // 10**9)
        if whole < 1:
            return self.fps(now_ns)
        with self._lock:
            counts = [count for when, count in self._seconds if second - whole <= when < second]
        return sum(counts) / whole


def percentiles_of(histogram: Histogram) -> Percentiles:
    """Return the percentiles that `histogram` holds enough latencies for."""
    count = histogram.count
    p50, p90, p99, p999 = (
        histogram.percentile_ms(percent) if count >= needed else None
        for percent, needed in _NEEDED.items()
    )
    most, mean = (histogram.max_ns / 1e6, histogram.mean_ms) if count else (None, None)
    return Percentiles(count, p50, p90, p99, p999, most, mean)


def summary_lines(summary: CameraSummary) -> list[str]:
    """Return the summary in lines for people."""
    counts = summary.counts
    lines = [
        f"{counts.answered} of {counts.captured} frames answered, {counts.dropped} dropped, "
        f"{counts.failed} failed, in {summary.seconds:.1f} s: {summary.fps:.1f} a second"
        + (f"; {counts.gathered} more are part of clips" if counts.gathered else "")
    ]
    if counts.answered:
        clocks = " and ".join(_CLOCKS[clock] for clock in summary.clocks)
        parts = ", ".join(
            f"{stage} {parts.p50:.2f}"
            for stage, parts in summary.stage_ms.items()
            if parts.p50 is not None
        )
        lines += [
            f"latency from {clocks} to the answer: {_in_words(summary.latency_ms)}",
            f"age when the model began: {_in_words(summary.age_ms)}",
            f"its parts, p50 in ms: {parts}",
        ]
    lines.append(
        f"{summary.model} in {summary.precision} on {summary.backend}, threads {summary.threads}, "
        f"batch {summary.batch_size}; preprocessing: {summary.preprocessing}"
    )
    if summary.degraded:
        lines.append(f"a fallback runs: {summary.degraded}")
    lines += filter(None, [summary.remark])
    lines += [_source_line(source) for source in summary.sources]
    lines += [
        f"{sink.name}: {sink.written} written, {sink.dropped} dropped, {sink.failed} failed"
        + (f" ({sink.last_error})" if sink.last_error else "")
        for sink in summary.sinks
        if sink.dropped or sink.failed
    ]
    return lines


def prediction_line(prediction: values.CameraPrediction) -> str:
    """Return one line: what was seen, where and how late."""
    frame = prediction.frame
    what = prediction.shown.line + ("" if prediction.is_confident else " (unsure)")
    # Of a file the latency is the time in queues, which does not matter.
    latency = f"  {frame.stamps.latency_ms:.1f} ms" if frame.is_live else ""
    return f"{frame.source} #{frame.number}: {what}{latency}"


def _source_line(source: values.SourceStatus) -> str:
    given = source.format
    if given is None:
        return f"{source.name}: never opened. {source.last_error}".strip()
    size = f"{given.width}x{given.height}" if given.width else "any size"
    rate = f" at {given.rate:.4g} frames/s" if given.rate else ""
    line = f"{source.name}: {size}{rate}, colour: {given.colour}"
    if source.num_reopened:
        times = "once" if source.num_reopened == 1 else f"{source.num_reopened} times"
        line += f"; opened anew {times}, last because: {source.last_error}"
    if source.undecoded:
        line += f"; left out {source.left_out}"
    return line


def _in_words(latency: Percentiles) -> str:
    named = {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99, "p99.9": latency.p999}
    shown = [f"{name} {value:.1f}" for name, value in named.items() if value is not None]
    return ", ".join(shown) + f", max {latency.max:.1f} ms"
