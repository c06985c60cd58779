"""Two precisions on the same labelled images: what the images that only one gets right tell."""

from __future__ import annotations

import math

import numpy as np

from edge_vit.measure.special import incomplete_beta
from edge_vit.measure.statistics import Interval

_Z_TWO_SIDED = 1.959963984540054  # normal quantile at 0.975
_RESAMPLES = 2000


def mcnemar_p(num_lost: int, num_gained: int) -> float:
    """Return the exact two-sided p of McNemar's test (1947, Psychometrika 12, 153), 0 to 1.

    If neither precision were better, each image on which they differ would fall to either side
    like a fair coin.
    """
    few, both = min(num_lost, num_gained), num_lost + num_gained
    if both == 2 * few:
        return 1.0
    return min(1.0, 2 * incomplete_beta(0.5, both - few, few + 1))


def tango_interval(num_lost: int, num_gained: int, count: int) -> Interval:
    """Return the two-sided 95 % score interval of the drop, from -1 to 1.

    Tango 1998 (Statistics in Medicine 17, 891): those drops that the score test does not reject,
    the spread being what it is if the drop were true. The gate does not use it: for few images and
    no disagreement `paired_drop_bounds` is the one that never promises too much.

    Args:
        num_lost: images that the reference gets right and the candidate wrong.
        num_gained: the opposite.
        count: labelled images.
    """
    drop = (num_lost - num_gained) / count
    high = _end(num_lost, num_gained, count, drop)
    return Interval(-_end(num_gained, num_lost, count, -drop), high)


def bootstrap_interval(num_lost: int, num_gained: int, count: int) -> Interval:
    """Return the two-sided 95 % paired bootstrap interval of the drop; seeded, so repeatable.

    Resampling images is drawing how many of them are lost, gained or neither. For the picture: it
    has no width where no image is lost or gained.
    """
    shares = np.array([num_lost, num_gained, count - num_lost - num_gained]) / count
    draws = np.random.default_rng(0).multinomial(count, shares, size=_RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / count, [0.025, 0.975]).tolist()
    return Interval(low, high)


def _end(lost: int, gained: int, count: int, drop: float) -> float:
    """The drop above the measured one at which the score reaches the limit, bisected."""
    low, high = drop, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if _score(lost, gained, count, middle) > -_Z_TWO_SIDED:
            low = middle
        else:
            high = middle
    return high


def _score(lost: int, gained: int, count: int, drop: float) -> float:
    """How far the counts are from `drop`, in standard deviations under it: Tango's T."""
    linear = -lost - gained + (2 * count - lost + gained) * drop
    square = linear**2 + 8 * count * gained * drop * (1 - drop)
    share_gained = (math.sqrt(max(0.0, square)) - linear) / (4 * count)
    variance = count * (2 * share_gained + drop * (1 - drop))
    difference = lost - gained - count * drop
    return difference / math.sqrt(variance) if variance > 0 else -math.inf
