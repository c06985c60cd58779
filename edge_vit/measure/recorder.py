"""Timed runs of one session as they come, and the report that they make."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from edge_vit.measure.histogram import HistogramCounter
from edge_vit.measure.results import (
    Environment,
    LatencyReport,
    LatencySummary,
    Percentile,
    Stage,
    TimingWarning,
)
from edge_vit.measure.statistics import CONFIDENCE, incomplete_beta
from edge_vit.runtime.cpu import Throttling, cpu_quota, read_throttling
from edge_vit.runtime.session import LatencySplit, Session
from edge_vit.spec import Precision

MAX_SAMPLES = 100_000  # runs whose own time a report keeps; its histogram counts all

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
_BEYOND = 10  # runs that have to be slower than a percentile before it is said

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
        self._sum_of_squares = 0
        self._throttled_before = read_throttling()

    def add(self, nanoseconds: int, split: LatencySplit | None = None) -> None:
        """Count one run, and its parts where they are known."""
        self._counter.add(nanoseconds)
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
        """Return the report of all runs so far, at least one."""
        histogram = self._counter.histogram()
        count = histogram.count
        samples_ms = tuple(value / 1e6 for value in self._nanoseconds)
        ordered = sorted(samples_ms)
        value_ms: Callable[[int], float] = histogram.value_ms
        if len(ordered) == count:
            value_ms, summary = ordered.__getitem__, summarize(samples_ms)
        else:
            p50, p90, p99 = map(histogram.percentile_ms, (50, 90, 99))
            low, high = histogram.min_ns / 1e6, histogram.max_ns / 1e6
            summary = LatencySummary(p50, p90, p99, histogram.mean_ms, low, high)
        variation = None
        if count > 1 and histogram.total_ns:  # whole numbers, so nothing cancels
            squares = count * self._sum_of_squares - histogram.total_ns**2
            variation = (squares / (count * (count - 1))) ** 0.5 / (histogram.total_ns / count)
        parts = {
            "host-to-device": [split.to_device_ms for split in self._splits],
            "GPU": [split.compute_ms for split in self._splits],
            "device-to-host": [split.to_host_ms for split in self._splits],
            "run": samples_ms,
        }
        stages = tuple(stage_of(name, times) for name, times in parts.items() if times)
        return LatencyReport(
            backend=session.backend,
            precision=session.precision,
            batch_size=batch_size,
            threads=session.threads,
            warmup=warmup,
            iterations=count,
            latency_ms=summary,
            throughput_ips=batch_size * (count / seconds if seconds else 1000 / summary.mean),
            samples_ms=samples_ms,
            interleaved_with=tuple(others),
            environment=environment,
            percentiles=find_percentiles(value_ms, count),
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
            remark=session.remark,
        )


def summarize(samples_ms: Sequence[float]) -> LatencySummary:
    """Return percentiles, mean and extremes of latencies in milliseconds."""
    p50, p90, p99 = np.percentile(samples_ms, [50, 90, 99]).tolist()
    mean = float(np.mean(samples_ms))
    return LatencySummary(p50, p90, p99, mean, min(samples_ms), max(samples_ms))


def stage_of(name: str, samples_ms: Sequence[float]) -> Stage:
    """Return the stage `name` of its times, at least one."""
    p50, p90 = np.percentile(samples_ms, [50, 90]).tolist()
    return Stage(name, p50, p90, statistics.fmean(samples_ms))


def runs_needed(percent: float) -> int:
    """Return how many runs a percentile above the median takes: 1,000 for p99, 10,000 for p99.9."""
    return 1 if percent <= 50 else round(100 * _BEYOND / (100 - percent))


def find_percentiles(value_ms: Callable[[int], float], count: int) -> tuple[Percentile, ...]:
    """Return each of `PERCENTS` with its two-sided 95 % interval, None where runs are too few.

    `value_ms` gives the latency of a rank in rising order, 0 to ``count - 1``. The interval takes
    runs for independent, which neighbours are not quite: it is the least that the percentile can be
    uncertain by.
    """
    found = []
    for percent in PERCENTS:
        if count < runs_needed(percent):
            found.append(Percentile(percent, None, None, None))
            continue
        place = percent / 100 * (count - 1)
        below, above = value_ms(int(place)), value_ms(min(int(place) + 1, count - 1))
        low, high = percentile_ranks(count, percent)
        found.append(
            Percentile(
                percent,
                below + (place - int(place)) * (above - below),
                None if low is None else value_ms(low),
                None if high is None else value_ms(high),
            )
        )
    return tuple(found)


def percentile_ranks(
    count: int, percent: float, confidence: float = CONFIDENCE
) -> tuple[int | None, int | None]:
    """Return the ranks, from 0, of the order statistics that hold a percentile between them.

    As many of `count` values lie at or below the percentile as a coin that falls that way `percent`
    times in 100 shows heads, so the interval is exact whatever the distribution (David and Nagaraja
    2003, Order Statistics, 7.1). None where the sample is too small for an end.
    """

    def quantile(share: float) -> int:
        """The smallest k for which at most k heads have a chance of `share` or more."""
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if incomplete_beta(1 - percent / 100, count - middle, middle + 1) >= share:
                high = middle
            else:
                low = middle + 1
        return low

    lowest, highest = quantile((1 - confidence) / 2), quantile((1 + confidence) / 2)
    return (lowest - 1 if lowest else None), (highest if highest < count else None)


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
            sentence = (
                f"Around {gpu:.3g} ms of the GPU's work the host takes {host:.3g} ms: the GPU "
                "waits for its next launch. A CUDA graph or a larger batch helps."
            )
            warnings.append(TimingWarning("launch-bound", sentence))
        if transfers >= gpu:
            sentence = (
                f"Copies to and from the GPU take {transfers:.3g} ms, its own work {gpu:.3g} ms: "
                "a faster model changes little."
            )
            warnings.append(TimingWarning("transfer-bound", sentence))
    if variation is not None and variation > UNSTEADY:
        advice = "close other programs"
        if is_on_gpu:
            advice = "lock the clocks (jetson_clocks, or nvidia-smi --lock-gpu-clocks)"
        percent = f"{100 * variation:.{0 if variation >= 0.1 else 1}f} %"
        sentence = (
            f"The runs vary by {percent} (standard deviation over mean), above "
            f"{100 * UNSTEADY:g} %: {advice}, and measure again."
        )
        warnings.append(TimingWarning("unsteady", sentence))
    if throttling.count:
        quota = cpu_quota()
        grants = f" of {quota:g} cores" if quota else ""
        sentence = (
            f"A CPU quota{grants} stopped this process in {throttling.count} periods, for "
            f"{throttling.seconds:.2g} s in all, while it was timed: this is the speed of the "
            "quota, not of the machine. Raise the quota of the container, or take fewer "
            "--threads, and measure again."
        )
        warnings.append(TimingWarning("throttled", sentence))
    return tuple(warnings)
