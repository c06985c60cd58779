"""One latency against another: intervals that hold although runs are not independent, and gates.

A machine that is busy or hot now still is so in the next run: neighbouring latencies resemble each
other, and an interval that takes them for independent is far too narrow. Here whole stretches of a
run are resampled, a tenth of it each (the moving blocks of Künsch 1989, Annals of Statistics 17,
1217), and the interval is as wide as Student's t asks where the spread is known from ten
parts. Where sessions were opened anew in between, the ten are shared out among the stretches:
shorter ones would take neighbours for independent again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_vit.errors import SpecError
from edge_vit.measure.gates import gate_of, outcome_of
from edge_vit.measure.results import Gate, LatencyReport, Outcome
from edge_vit.measure.statistics import (
    CONFIDENCE,
    Interval,
    exact_bounds,
    images_needed,
    student_quantile,
)

Difference = Literal["slower", "faster", "no difference"]

TOLERANCE = 0.01
"""Two runs of the same thing differ by this much on a quiet machine: less is no difference."""

MAX_ROUNDS = 10_000_000  # where asking for more rounds gives up

_P99_SHARE = 0.01  # of the runs may be slower than the 99th percentile
_NUM_BLOCKS = 10
_RESAMPLES = 400
_AT_A_TIME = 10  # resamples: bounds the memory where there are many runs

Samples = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def median_ratio_interval(
    first_ms: Sequence[float],
    second_ms: Sequence[float],
    *,
    paired: bool = True,
    stretches: int = 1,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Return the interval of ``median(first) / median(second)``; seeded, so repeatable.

    Where sessions were opened anew in between, it is that of the geometric mean of the ratios of
    all stretches: what opening changes is then no noise, but balanced out.

    `paired` says that both were timed in turns: round i of both is then resampled together, since
    what disturbs one run of a round tends to disturb the other. `stretches` is the number of equal
    parts of both in which the sessions stayed open.
    """
    first, second = np.asarray(first_ms, float), np.asarray(second_ms, float)
    if not len(first) or not len(second) or (paired and len(first) != len(second)):
        raise SpecError(
            f"latencies: got {len(first)} and {len(second)} runs, expected at least 1 of each"
            + (", and as many of both" if paired else "")
        )
    stretches = min(stretches, len(first), len(second))
    random = np.random.default_rng(0)
    logs, variances, degrees = [], [], []
    for one, other in zip(
        np.array_split(first, stretches), np.array_split(second, stretches), strict=True
    ):
        num_blocks = min(max(2, _NUM_BLOCKS // stretches), len(one), len(other))
        if num_blocks < 2:
            return Interval(0.0, math.inf)  # one run says nothing of the next
        logs.append(math.log(np.median(one) / np.median(other)))
        # Blocks vary around their own mean, which hides a part of the spread: Bessel's correction.
        spread = _variance(random, one, other, num_blocks, paired=paired)
        variances.append(spread * num_blocks / (num_blocks - 1))
        degrees.append(num_blocks - 1)
    half = _half_width(variances, degrees, confidence) / stretches
    middle = sum(logs) / stretches
    return Interval(math.exp(middle - half), math.exp(middle + half))


def unpaired_interval(now: LatencyReport, then: LatencyReport) -> Interval:
    """Return the interval of the ratio of two medians that were not measured in turns."""
    stretches = now.num_openings if now.num_openings == then.num_openings else 1
    return median_ratio_interval(now.samples_ms, then.samples_ms, paired=False, stretches=stretches)


def judge_ratio(interval: Interval, limit: float) -> Outcome:
    """Return whether a ratio that should be at least `limit` is, by both ends of its interval."""
    return "pass" if interval.low >= limit else "fail" if interval.high < limit else "undecided"


def find_difference(interval: Interval, tolerance: float = TOLERANCE) -> Difference:
    """Return what the interval of ``median(this) / median(other)`` says of this one."""
    if interval.low > 1 + tolerance:
        return "slower"
    return "faster" if interval.high < 1 / (1 + tolerance) else "no difference"


def rounds_needed(interval: Interval, limit: float, count: int) -> int | None:
    """Return how many rounds would take `limit` out of `interval`, None if more than `MAX_ROUNDS`.

    An interval narrows with the square root of the rounds, `count` so far; two digits are worth
    saying.
    """
    low, high = math.log(max(interval.low, 1e-300)), math.log(interval.high)
    distance = abs((low + high) / 2 - math.log(limit))
    half = (high - low) / 2
    if distance == 0 or not half / distance < math.sqrt(MAX_ROUNDS / count):
        return None
    needed = math.ceil(count * (half / distance) ** 2)
    unit = int(10 ** max(0, len(str(needed)) - 2))
    return math.ceil(needed / unit) * unit


def _variance(
    random: np.random.Generator, one: Samples, other: Samples, num_blocks: int, *, paired: bool
) -> float:
    """Of the logarithm of the ratio of the medians, over resamples."""
    logs = []
    for _ in range(_RESAMPLES // _AT_A_TIME):
        rounds = _blocks(random, len(one), num_blocks)
        others = rounds if paired else _blocks(random, len(other), num_blocks)
        logs.append(np.log(np.median(one[rounds], axis=1) / np.median(other[others], axis=1)))
    return float(np.var(np.concatenate(logs)))


def _half_width(variances: Sequence[float], degrees: Sequence[int], confidence: float) -> float:
    """Half of the interval of a sum; its degrees of freedom by Welch and Satterthwaite."""
    total = sum(variances)
    if total == 0:
        return 0.0
    shares = sum(v**2 / d for v, d in zip(variances, degrees, strict=True))
    return student_quantile(confidence, total**2 / shares) * math.sqrt(total)


def _blocks(random: np.random.Generator, count: int, num_blocks: int) -> Indices:
    """Indices of `_AT_A_TIME` resamples, (resamples, count), made of stretches; ends are joined."""
    length = max(1, count // num_blocks)
    starts = random.integers(count, size=(_AT_A_TIME, -(-count // length), 1))
    indices = (starts + np.arange(length)) % count
    return indices.reshape(_AT_A_TIME, -1)[:, :count]


def judge_speed(
    report: LatencyReport,
    baseline: LatencyReport,
    min_speedup: float,
    *,
    name: str = "",
    confidence: float = CONFIDENCE,
) -> Gate:
    """Return the gate ``min-speedup``: the ratio of the two medians against the limit."""
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
        baseline.samples_ms, report.samples_ms, stretches=report.num_openings, confidence=confidence
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
        report, "min-speedup", min_speedup, sentence, outcome, speedup, interval, needed, confidence
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
    p99, both = report.latency_ms.p99, (known.low_ms, known.high_ms) if known else (None, None)
    return gate_of(
        report, "max-p99-ms", max_p99_ms, sentence, outcome, p99, both, needed, confidence
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
