"""Exact intervals that hold for few images and for zero disagreements.

Counts may be fractions of an image, so that rates seen on 300 images can be asked about 940 of
them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from edge_vit.tasks.measures import Z_TWO_SIDED

CONFIDENCE = 0.95
MAX_IMAGES = 10_000_000  # where the search for enough images gives up

_MAX_TERMS = 100_000
_TINY = 1e-300


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def wilson_interval(successes: float, count: float) -> Interval:
    """Return the two-sided 95 % score interval of a proportion (Wilson 1927), from 0 to 1."""
    share, z2 = successes / count, Z_TWO_SIDED**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2 * z2 / 4) / (1 + z2)
    # At no success and at no failure the formula gives 0 and 1 up to rounding; say them exactly.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(low, high)


def exact_bounds(successes: float, count: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact bounds of a proportion (Clopper and Pearson 1934), from 0 to 1.

    Each bound alone holds with at least `confidence`; both together are an interval of
    ``2 * confidence - 1``.
    """
    failures = count - successes
    low = inverse_beta(1 - confidence, successes, failures + 1) if successes > 0 else 0.0
    high = inverse_beta(confidence, successes + 1, failures) if failures > 0 else 1.0
    return Interval(low, high)


def paired_drop_bounds(
    num_lost: float, num_gained: float, count: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the bounds of an accuracy drop that was measured on the same images, from -1 to 1.

    The drop is ``(num_lost - num_gained) / count``. Its bounds, each of which alone holds with
    `confidence`, are put together from the exact bounds of the two shares by squaring and adding,
    as Newcombe 1998 (Statistics in Medicine 17, 2635) does with Wilson's, whose bound is too low 19
    times in 100 where nothing differs: see ``docs/statistics.md``.
    """
    lost, gained = num_lost / count, num_gained / count
    lost_low, lost_high = exact_bounds(num_lost, count, confidence)
    gained_low, gained_high = exact_bounds(num_gained, count, confidence)
    # One image cannot be both lost and gained: a negative correlation, which widens the interval.
    spread = (1 - lost) * (1 - gained)
    correlation = -math.sqrt(lost * gained / spread) if spread > 0 else 0.0
    down = _square_and_add(lost - lost_low, gained_high - gained, correlation)
    up = _square_and_add(lost_high - lost, gained - gained_low, correlation)
    return Interval(max(-1.0, lost - gained - down), min(1.0, lost - gained + up))


def mcnemar_p(num_lost: int, num_gained: int) -> float:
    """Return the exact two-sided p of McNemar's test (1947, Psychometrika 12, 153), 0 to 1."""
    few, both = min(num_lost, num_gained), num_lost + num_gained
    if both == 2 * few:
        return 1.0
    return min(1.0, 2 * incomplete_beta(0.5, both - few, few + 1))


def images_needed(
    bounds: Callable[[float], Interval], limit: float, value: float, count: int
) -> int | None:
    """Return the fewest images at which `limit` lies outside `bounds`, or None if none will do.

    `bounds` gives those of the value for a number of images, at the rates seen so far on `count`.
    On the limit itself no number of images decides.
    """
    if value == limit:
        return None

    def decides(num_images: int) -> bool:
        low, high = bounds(num_images)
        return high <= limit if value < limit else low > limit

    few, many = count, count
    while not decides(many):
        if many >= MAX_IMAGES:
            return None
        few, many = many, min(2 * many, MAX_IMAGES)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if decides(middle) else (middle, many)
    return many


@functools.lru_cache(4096)  # the search for enough images asks for the same ones again and again
def student_quantile(confidence: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t; ``degrees / (degrees + t^2)`` is Beta."""
    share = inverse_beta(1 - confidence, degrees / 2, 0.5)
    return math.sqrt(degrees * (1 / share - 1))


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for 0 <= x <= 1, a >= 0, b > 0.

    By the continued fraction DLMF 8.17.22, on the side of the mean where it converges fast.
    """
    if x <= 0 or x >= 1 or a == 0:
        return 0.0 if x <= 0 < a else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    log_front = a * math.log(x) + b * math.log1p(-x) - log_beta
    return math.exp(log_front) / (a * _continued_fraction(x, a, b))


def inverse_beta(share: float, a: float, b: float) -> float:
    """Return the x with ``incomplete_beta(x, a, b) == share``, bisected to neighbouring floats."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        if middle in (low, high) or high - low < 1e-15 * high:
            return middle
        if incomplete_beta(middle, a, b) < share:
            low = middle
        else:
            high = middle


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) by the modified method of Lentz."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, _MAX_TERMS):
        m = term // 2
        if term % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _not_zero(1 + step * d)
        c = _not_zero(1 + step / c)
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise AssertionError(f"incomplete beta did not converge at x={x}, a={a}, b={b}")


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _square_and_add(first: float, second: float, correlation: float) -> float:
    """Distance from a difference to its bound, from the distances of its two parts."""
    return math.sqrt(first**2 + second**2 - 2 * correlation * first * second)
