"""Timed runs of one session as they come, and the report that they make."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from edge_vit.measure.histogram import Histogram, HistogramCounter
from edge_vit.measure.percentiles import find_percentiles
from edge_vit.measure.results import Environment, LatencyReport
from edge_vit.measure.timing import MAX_SAMPLES, LatencySummary, Stage, TimingWarning
from edge_vit.runtime.cgroup import Throttling, cpu_quota, read_throttling
from edge_vit.runtime.session import LatencySplit, Session
from edge_vit.spec import Precision

UNSTEADY = 0.025
LAUNCH_BOUND = 0.8
"""Both as trtexec warns: of a coefficient of variation above 2.5 %, and of a host that takes more
than 0.8 of the GPU's own time."""


class Recorder:
    """Counts every run of a session, and keeps the first `MAX_SAMPLES` in full."""

    def __init__(self) -> None:
        self._counter = HistogramCounter()
        self._nanoseconds: list[int] = []
        self._splits: list[LatencySplit] = []
        self._sum = self._sum_of_squares = 0
        self._throttled_before = read_throttling()

    def add(self, nanoseconds: int, split: LatencySplit | None = None) -> None:
        """Count one run, and its parts where they are known."""
        self._counter.add(nanoseconds)
        self._sum += nanoseconds
        self._sum_of_squares += nanoseconds**2
        if len(self._nanoseconds) < MAX_SAMPLES:
            self._nanoseconds.append(nanoseconds)
            if split is not None:
                self._splits.append(split)

    def report(
        self,
        session: Session,
        *,
        batch_size: int,
        warmup: int,
        environment: Environment,
        others: Sequence[Precision] = (),
        seconds: float | None = None,
    ) -> LatencyReport:
        """Return the report of all runs so far, at least one.

        Args:
            session: that was timed.
            batch_size: images per run.
            warmup: runs that were not counted.
            environment: where it was.
            others: precisions that were timed in turns with this one.
            seconds: that all runs took together, for the throughput; where None it follows from the
                mean.
        """
        histogram = self._counter.histogram()
        samples_ms = tuple(value / 1e6 for value in self._nanoseconds)
        ordered = sorted(samples_ms)
        is_whole = len(ordered) == histogram.count
        value_ms = ordered.__getitem__ if is_whole else histogram.value_ms
        summary = summarize(samples_ms) if is_whole else summarize_histogram(histogram)
        variation = self._variation()
        stages = (*_split_stages(self._splits), stage_of("run", samples_ms))
        throughput = batch_size / (summary.mean / 1000)
        if seconds is not None:
            throughput = batch_size * histogram.count / seconds
        return LatencyReport(
            backend=session.backend,
            precision=session.precision,
            batch_size=batch_size,
            threads=session.threads,
            warmup=warmup,
            iterations=histogram.count,
            latency_ms=summary,
            throughput_ips=throughput,
            samples_ms=samples_ms,
            interleaved_with=tuple(others),
            environment=environment,
            percentiles=find_percentiles(value_ms, histogram.count),
            stages=stages,
            histogram=histogram,
            warnings=find_warnings(
                stages,
                variation,
                is_on_gpu=session.is_on_gpu,
                throttling=read_throttling().since(self._throttled_before),
            ),
            variation=variation,
            is_on_gpu=session.is_on_gpu,
            provider=getattr(session, "provider", ""),
            cuda_graph=getattr(session, "uses_graph", None),
        )

    def _variation(self) -> float | None:
        """Standard deviation over mean; None of one run. Whole numbers, so nothing cancels."""
        count = self._counter.histogram().count
        if count < 2 or self._sum == 0:
            return None
        variance = (count * self._sum_of_squares - self._sum**2) / (count * (count - 1))
        return float(variance**0.5 / (self._sum / count))


def summarize(samples_ms: Sequence[float]) -> LatencySummary:
    """Return percentiles, mean and extremes of latencies in milliseconds."""
    p50, p90, p99 = np.percentile(samples_ms, [50, 90, 99]).tolist()
    mean = float(np.mean(samples_ms))
    return LatencySummary(p50, p90, p99, mean, min(samples_ms), max(samples_ms))


def summarize_histogram(histogram: Histogram) -> LatencySummary:
    """Return the same of a histogram, whose percentiles are within 1 %."""
    p50, p90, p99 = map(histogram.percentile_ms, (50, 90, 99))
    low, high = histogram.min_ns / 1e6, histogram.max_ns / 1e6
    return LatencySummary(p50, p90, p99, histogram.mean_ms, low, high)


def stage_of(name: str, samples_ms: Sequence[float]) -> Stage:
    """Return the stage `name` of its times, at least one."""
    p50, p90 = np.percentile(samples_ms, [50, 90]).tolist()
    return Stage(name, p50, p90, statistics.fmean(samples_ms))


def find_warnings(
    stages: Sequence[Stage],
    variation: float | None,
    *,
    is_on_gpu: bool,
    throttling: Throttling = Throttling(),  # noqa: B008  # frozen
) -> tuple[TimingWarning, ...]:
    """Return what makes a latency doubtful, or could be done better."""
    median = {stage.name: stage.p50_ms for stage in stages}
    warnings = []
    if "GPU" in median:
        gpu, transfers = median["GPU"], median["host-to-device"] + median["device-to-host"]
        host = median["run"] - gpu - transfers
        if host > LAUNCH_BOUND * gpu:
            warnings.append(
                TimingWarning(
                    "launch-bound",
                    f"Around {gpu:.3g} ms of the GPU's work the host takes {host:.3g} ms: the GPU "
                    "waits for its next launch. A CUDA graph or a larger batch helps.",
                )
            )
        if transfers >= gpu:
            warnings.append(
                TimingWarning(
                    "transfer-bound",
                    f"Copies to and from the GPU take {transfers:.3g} ms, its own work {gpu:.3g} "
                    "ms: a faster model changes little.",
                )
            )
    if variation is not None and variation > UNSTEADY:
        advice = (
            "lock the clocks (jetson_clocks, or nvidia-smi --lock-gpu-clocks)"
            if is_on_gpu
            else "close other programs"
        )
        warnings.append(
            TimingWarning(
                "unsteady",
                f"The runs vary by {_percent(variation)} (standard deviation over mean), above "
                f"{100 * UNSTEADY:g} %: {advice}, and measure again.",
            )
        )
    if throttling.count:
        quota = cpu_quota()
        grants = f" of {quota:g} cores" if quota else ""
        warnings.append(
            TimingWarning(
                "throttled",
                f"A CPU quota{grants} stopped this process in {throttling.count} periods, for "
                f"{throttling.seconds:.2g} s in all, while it was timed: this is the speed of the "
                "quota, not of the machine. Raise the quota of the container, or take fewer "
                "--threads, and measure again.",
            )
        )
    return tuple(warnings)


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def _split_stages(splits: Sequence[LatencySplit]) -> tuple[Stage, ...]:
    if not splits:
        return ()
    return (
        stage_of("host-to-device", [split.to_device_ms for split in splits]),
        stage_of("GPU", [split.compute_ms for split in splits]),
        stage_of("device-to-host", [split.to_host_ms for split in splits]),
    )
