"""Percentiles of latencies, with the intervals that order statistics give them."""

from __future__ import annotations

from collections.abc import Callable

from edge_vit.measure.special import incomplete_beta
from edge_vit.measure.statistics import CONFIDENCE
from edge_vit.measure.timing import Percentile

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)

_BEYOND = 10  # runs that have to be slower than a percentile before it is said


def runs_needed(percent: float) -> int:
    """Return how many runs a percentile above the median takes: 1,000 for p99, 10,000 for p99.9."""
    return 1 if percent <= 50 else round(100 * _BEYOND / (100 - percent))


def find_percentiles(value_ms: Callable[[int], float], count: int) -> tuple[Percentile, ...]:
    """Return each of `PERCENTS` with its two-sided 95 % interval, None where runs are too few.

    The interval takes runs for independent, which neighbours are not quite: it is the least that
    the percentile can be uncertain by.

    Args:
        value_ms: rank in rising order, 0 to ``count - 1`` -> latency in milliseconds.
        count: timed runs, at least 1.
    """
    return tuple(_percentile(value_ms, count, percent) for percent in PERCENTS)


def percentile_ranks(
    count: int, percent: float, confidence: float = CONFIDENCE
) -> tuple[int | None, int | None]:
    """Return the ranks, from 0, of the order statistics that hold a percentile between them.

    As many of `count` values lie at or below the percentile as a coin that falls that way `percent`
    times in 100 shows heads, so the interval is exact whatever the distribution (David and Nagaraja
    2003, Order Statistics, 7.1). None where the sample is too small for an end.

    Args:
        count: values.
        percent: of the percentile, above 0 and below 100.
        confidence: two-sided, split evenly.
    """
    share, tail = percent / 100, (1 - confidence) / 2
    # Smallest k with P(X <= k) >= tail: fewer than k at or below the percentile is too rare.
    lowest = _first(lambda k: _binomial_cdf(k, count, share) >= tail, count)
    highest = _first(lambda k: _binomial_cdf(k, count, share) >= 1 - tail, count)
    return (lowest - 1 if lowest else None), (highest if highest < count else None)


def _percentile(value_ms: Callable[[int], float], count: int, percent: float) -> Percentile:
    if count < runs_needed(percent):
        return Percentile(percent, None, None, None)
    place = percent / 100 * (count - 1)
    below = int(place)
    above = min(below + 1, count - 1)
    value = value_ms(below) + (place - below) * (value_ms(above) - value_ms(below))
    low, high = percentile_ranks(count, percent)
    return Percentile(
        percent,
        value,
        None if low is None else value_ms(low),
        None if high is None else value_ms(high),
    )


def _first(holds: Callable[[int], bool], count: int) -> int:
    """The smallest k from 0 to `count` for which `holds`; it holds for all above, and `count`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _binomial_cdf(successes: int, count: int, share: float) -> float:
    """Chance of at most `successes` in `count` trials."""
    if successes >= count:
        return 1.0
    return incomplete_beta(1 - share, count - successes, successes + 1)
