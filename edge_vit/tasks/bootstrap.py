"""Numbers over all images, with the intervals that the bootstrap over images gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.numerics import Float64Array, IntArray

RESAMPLES = 400

Numbers = Callable[[Sequence[Any], IntArray], Mapping[str, Float64Array]]
"""(record of each image, how often each counts, (draws, images)) -> numbers by name, (draws,), NaN
where they are not known."""


def bootstrap(
    candidate: Sequence[Any],
    reference: Sequence[Any],
    numbers: Numbers,
    lost: tuple[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, MeasureValue]:
    """Return `numbers` of the candidate with 95 % intervals; nothing without a record.

    Records are None where there is no truth. Where the reference has some of the same images, they
    are drawn for both together. `lost` names one number, and what the candidate loses of it.
    """
    ours, theirs = ([each for each in side if each is not None] for side in (candidate, reference))
    if not ours:
        return {}
    count, known = len(ours), [[each is None for each in side] for side in (candidate, reference)]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples)
    weights = np.concatenate((np.ones((1, count), np.int64), drawn))
    values = numbers(ours, weights)
    before: Mapping[str, Float64Array] = {}
    if known[0] == known[1]:
        before = values if theirs == ours else numbers(theirs, weights)
    found = {name: interval(each, before.get(name)) for name, each in values.items()}
    if lost is not None and before:
        found[lost[1]] = interval(before[lost[0]] - values[lost[0]])
    return found


def interval(values: Float64Array, reference: Float64Array | None = None) -> MeasureValue:
    """Return the first of `values`, with the interval that 95 % of the others lie in."""
    if np.isnan(values[0]):
        return MeasureValue(None)
    known = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (None, None)
    before = None if reference is None or np.isnan(reference[0]) else float(reference[0])
    return MeasureValue(float(values[0]), low, high, before)
