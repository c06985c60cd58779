"""Latency against a limit: how a measurement stands to it, by its interval, in plain words."""

from __future__ import annotations

import math

from edge_vit.errors import SpecError
from edge_vit.measure.gates import gate_of, outcome_of
from edge_vit.measure.ratio import judge_ratio, median_ratio_interval, rounds_needed
from edge_vit.measure.results import Gate, LatencyReport
from edge_vit.measure.statistics import CONFIDENCE, exact_bounds, images_needed

_P99_SHARE = 0.01  # of the runs may be slower than the 99th percentile


def judge_speed(
    report: LatencyReport,
    baseline: LatencyReport,
    min_speedup: float,
    *,
    name: str = "",
    confidence: float = CONFIDENCE,
) -> Gate:
    """Return the gate ``min-speedup``: the ratio of the two medians against the limit.

    Pass needs the whole interval of the ratio at the limit or above, fail the whole of it below.
    `name` is that of the baseline in sentences; where empty, its precision.

    Raises:
        SpecError: the two were not timed in turns.
    """
    ours, theirs = report.latency_ms.p50, baseline.latency_ms.p50
    if (
        baseline.precision not in report.interleaved_with
        or report.iterations != baseline.iterations
    ):
        raise SpecError(
            f"latency of {report.precision} and {baseline.precision} was not measured in turns, "
            "and cannot be compared. Measure both with: edgevit verify"
        )
    speedup = theirs / ours
    low, high = interval = median_ratio_interval(
        baseline.samples_ms,
        report.samples_ms,
        stretches=report.num_openings,
        confidence=confidence,
    )
    outcome, needed = judge_ratio(interval, min_speedup), None
    name = name or baseline.precision.upper()
    times, wanted = ratio_words(speedup), f"wanted {min_speedup:g}x"
    medians = f"median {ours:.3g} ms against {theirs:.3g} ms"
    if outcome == "undecided" and not math.isfinite(high):
        sentence = (
            f"It is {times} the speed of {name} ({wanted}; {medians}), "
            f"{too_few_runs(report.iterations)}; --iterations 200 is a good start."
        )
    elif outcome == "undecided":
        needed = rounds_needed(interval, min_speedup, report.iterations)
        sentence = (
            f"It is {times} the speed of {name}, but that can be anything from {low:.3f} to "
            f"{high:.3f} ({wanted}; {medians}); {how_many_runs(needed)}."
        )
    elif outcome == "pass":
        than = f"faster than {name}" if speedup >= 1 else f"the speed of {name}, {wanted}"
        sentence = f"{times} {than} ({medians})."
    elif speedup < 1:
        sentence = f"It is slower than {name} ({times}, {wanted}; {medians})."
    else:
        sentence = f"It is only {times} the speed of {name} ({wanted}; {medians})."
    return gate_of(
        *(report, "min-speedup", min_speedup, sentence, outcome, speedup, interval),
        runs=needed,
        confidence=confidence,
    )


def judge_p99(report: LatencyReport, max_p99_ms: float, confidence: float = CONFIDENCE) -> Gate:
    """Return the gate ``max-p99-ms``: no more than 1 % of the runs may take longer than the limit.

    The share of runs that took longer has exact bounds, which say whether the percentile is
    within the limit without an estimate of the percentile itself. Fewer than 299 runs never pass.
    """
    count = len(report.samples_ms)
    slower = sum(sample > max_p99_ms for sample in report.samples_ms)
    low, high = share = exact_bounds(slower, count, confidence)
    outcome, needed = outcome_of(share, _P99_SHARE), None
    known = next((p for p in report.percentiles if p.percent == 99), None)
    what = f"{slower:,} of {count:,} runs took longer than {max_p99_ms:g} ms"
    if outcome == "pass":
        sentence = f"{what}, at most {100 * high:.2f} % of all with 95 % confidence: p99 is below."
    elif outcome == "fail":
        sentence = f"{what}, at least {100 * low:.2f} % of all with 95 % confidence: p99 is above."
    else:
        needed = images_needed(
            lambda runs: exact_bounds(slower * runs / count, runs, confidence),
            _P99_SHARE,
            slower / count,
            count,
        )
        sentence = (
            f"{what}, which leaves open whether p99 is below: it can be anything from "
            f"{100 * low:.2f} to {100 * high:.2f} % of all; {how_many_runs(needed)}."
        )
    both = (known.low_ms, known.high_ms) if known else (None, None)
    return gate_of(
        *(report, "max-p99-ms", max_p99_ms, sentence, outcome, report.latency_ms.p99, both),
        runs=needed,
        confidence=confidence,
    )


def how_many_runs(needed: int | None, whose: str = "") -> str:
    """Say how many timed runs would decide, and in which of several measurements."""
    if needed is None:
        return "too close to the limit for any number of runs to decide"
    unit = 10 ** max(0, len(str(needed)) - 2)  # two digits are all that it is worth
    return f"about --iterations {math.ceil(needed / unit) * unit}{whose} would decide"


def too_few_runs(count: int) -> str:
    """Say that a ratio has no interval: `median_ratio_interval` takes two runs of each opening."""
    return f"but {count:,} timed run{'s say' if count > 1 else ' says'} nothing of the next ones"


def ratio_words(value: float) -> str:
    """Return a ratio rounded down, so that one below its limit never reads as the limit itself."""
    return f"{math.floor(value * 100 + 1e-9) / 100:g}x"
