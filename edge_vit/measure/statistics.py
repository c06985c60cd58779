"""Intervals that hold for few images and for zero disagreements, without scipy at run time.

Counts may be fractions of an image, so that rates seen on 300 images can be asked about 940 of
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from edge_vit.measure.special import inverse_beta

CONFIDENCE = 0.95
_Z_TWO_SIDED = 1.959963984540054  # normal quantile at 0.975, for a two-sided 95 % interval
MAX_IMAGES = 10_000_000
"""Where the search for enough images gives up."""


class Interval(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def wilson_interval(successes: float, count: float) -> Interval:
    """Return the two-sided 95 % score interval of a proportion (Wilson 1927), from 0 to 1."""
    share, z2 = successes / count, _Z_TWO_SIDED**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2 * z2 / 4) / (1 + z2)
    # At no success and at no failure the formula gives 0 and 1 up to rounding; say them exactly.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return Interval(low, high)


def exact_bounds(successes: float, count: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the exact bounds of a proportion (Clopper and Pearson 1934), from 0 to 1.

    Each bound alone holds with at least `confidence`; both together are an interval of
    ``2 * confidence - 1``. The two-sided 95 % interval is ``exact_bounds(..., confidence=0.975)``.
    """
    failures = count - successes
    low = inverse_beta(1 - confidence, successes, failures + 1) if successes > 0 else 0.0
    high = inverse_beta(confidence, successes + 1, failures) if failures > 0 else 1.0
    return Interval(low, high)


def paired_drop_bounds(
    num_lost: float, num_gained: float, count: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the bounds of an accuracy drop that was measured on the same images, from -1 to 1.

    The drop is ``(num_lost - num_gained) / count``. Its bounds are put together from the exact
    bounds of the two shares by squaring and adding, as Newcombe 1998 (Statistics in Medicine 17,
    2635) does with Wilson's for his method 10. His own is not used: with no disagreement at 50 %
    accuracy its upper bound is 1.6 / count, where the exact one is 3 / count, and is too low 19
    times in 100. The bounds here cover at least 95 % at every rate and count that the tests go
    through.

    Args:
        num_lost: images that the reference gets right and the candidate wrong.
        num_gained: the opposite.
        count: images in all.
        confidence: of each bound alone.
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


def images_needed(
    bounds: Callable[[float], Interval], limit: float, value: float, count: int
) -> int | None:
    """Return the fewest images at which `limit` lies outside `bounds`, or None if none will do.

    Args:
        bounds: number of images -> bounds of the value, at the rates seen so far.
        limit: decided when ``high <= limit`` or ``low > limit``.
        value: what was measured; on the limit itself no number of images decides.
        count: images so far, which do not decide.
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


def _square_and_add(first: float, second: float, correlation: float) -> float:
    """Distance from a difference to its bound, from the distances of its two parts."""
    return math.sqrt(first**2 + second**2 - 2 * correlation * first * second)
