"""Running totals of what only some tasks have: labels that are on or off, and numeric scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_vit.measure.exact import exact_sum, quotient
from edge_vit.measure.metrics import BoolArray, FloatArray
from edge_vit.measure.results import LabelAgreement, ScoreError

Counts = dict[str, int]
"""How many, by a name that JSON can have as a key."""


@dataclass
class LabelTally:
    """Labels on or off, by index of the label -> images.

    Attributes:
        reference_on: where the reference has the label on.
        candidate_on: where the candidate has.
        same: where both have it on, or both off.
    """

    reference_on: Counts = field(default_factory=dict)
    candidate_on: Counts = field(default_factory=dict)
    same: Counts = field(default_factory=dict)

    def add(self, reference: BoolArray, candidate: BoolArray) -> None:
        """Count one batch: which labels are on, (rows, labels) each."""
        for counts, flags in (
            (self.reference_on, reference),
            (self.candidate_on, candidate),
            (self.same, reference == candidate),
        ):
            for index, number in enumerate(flags.sum(axis=0).tolist()):
                add_count(counts, str(index), number)


@dataclass
class ScoreTally:
    """Numeric scores, by index of the score; all sums in the units of `exact_sum`.

    Attributes:
        error: sum of the absolute differences between both.
        squared_error: sum of their squares.
        value: sum of the reference's values.
        squared_value: sum of their squares.
        above: images where the reference's value reaches the threshold.
        same_side: images where both are on the same side of it.
    """

    error: Counts = field(default_factory=dict)
    squared_error: Counts = field(default_factory=dict)
    value: Counts = field(default_factory=dict)
    squared_value: Counts = field(default_factory=dict)
    above: Counts = field(default_factory=dict)
    same_side: Counts = field(default_factory=dict)

    def add(self, reference: FloatArray, candidate: FloatArray, threshold: float) -> None:
        """Count the scores of one batch, (rows, scores) each."""
        wide, other = reference.astype(np.float64), candidate.astype(np.float64)
        error, above = np.abs(wide - other), wide >= threshold
        for counts, values in (
            (self.error, error),
            (self.squared_error, error**2),
            (self.value, wide),
            (self.squared_value, wide**2),
        ):
            for index, column in enumerate(values.T.tolist()):
                add_count(counts, str(index), exact_sum(column))
        for counts, flags in ((self.above, above), (self.same_side, above == (other >= threshold))):
            for index, number in enumerate(flags.sum(axis=0).tolist()):
                add_count(counts, str(index), number)


def label_agreements(
    tally: LabelTally, num_images: int, labels: Sequence[str]
) -> tuple[LabelAgreement, ...]:
    """Return each label's agreement over `num_images` images, by index."""
    return tuple(
        LabelAgreement(
            index,
            labels[index] if labels else str(index),
            tally.reference_on[key],
            tally.candidate_on[key],
            tally.same[key] / num_images,
        )
        for index, key in _by_index(tally.same)
    )


def mean_agreement(tally: LabelTally, num_images: int) -> float | None:
    """Return the share of equal decisions over all images and labels, None without labels."""
    return sum(tally.same.values()) / (len(tally.same) * num_images) if tally.same else None


def score_errors(
    tally: ScoreTally, num_images: int, labels: Sequence[str]
) -> tuple[ScoreError, ...]:
    """Return each score's error over `num_images` images, by index."""
    return tuple(
        ScoreError(
            index,
            labels[index] if labels else str(index),
            mean_error=quotient(tally.error[key], num_images),
            error_deviation=_deviation(tally.error[key], tally.squared_error[key], num_images),
            spread=_deviation(tally.value[key], tally.squared_value[key], num_images),
            above=tally.above[key],
            same_side=tally.same_side[key] / num_images,
        )
        for index, key in _by_index(tally.error)
    )


def _by_index(counts: Counts) -> list[tuple[int, str]]:
    return sorted((int(key), key) for key in counts)


def _deviation(total: int, squares: int, count: int) -> float:
    """Return the standard deviation of `count` values from exact sums; 0 for a single one."""
    if count < 2:
        return 0.0
    mean = quotient(total, count)
    # Exact until here; the squares were rounded one by one, so that a constant leaves a rest.
    variance = (quotient(squares) - count * mean * mean) / (count - 1)
    scale = quotient(squares, count)
    return math.sqrt(variance) if variance > 1e-12 * scale else 0.0


def add_count(counts: Counts, key: str, number: int) -> None:
    """Add `number` to the entry `key` of `counts`."""
    counts[key] = counts.get(key, 0) + number
