"""Running totals of one precision against the reference: a few numbers, however many images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_vit.measure import metrics
from edge_vit.measure.metrics import BoolArray, Float64Array, FloatArray, IntArray

TOP_K = 5


@dataclass
class Tally:
    """What is added up over images, for any task.

    Sums are of one float64 per image, in the order of the images: the batch that an image travels
    in does not matter.
    """

    num_images: int = 0
    cosine_sum: float = 0.0
    cosine_min: float = 1.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: FloatArray, candidate: FloatArray) -> None:
        """Count the images of one batch, (rows, values) each."""
        cosine = metrics.cosine_rows(reference, candidate)
        signal, noise = metrics.power_rows(reference, candidate)
        self.num_images += len(cosine)
        self.cosine_min = min(self.cosine_min, *cosine.tolist())
        self.cosine_sum = _add_one_by_one(self.cosine_sum, cosine)
        self.signal = _add_one_by_one(self.signal, signal)
        self.noise = _add_one_by_one(self.noise, noise)

    @property
    def cosine_mean(self) -> float:
        """Mean cosine over the images."""
        return self.cosine_sum / self.num_images

    @property
    def sqnr_db(self) -> float | None:
        """Over all outputs; None where both are equal."""
        return metrics.sqnr_db(self.signal, self.noise)


@dataclass
class AnswerTally:
    """What is added up over images of a `classification` task, labelled or not."""

    num_agreeing: int = 0
    kl_sum: float = 0.0
    num_labelled: int = 0
    top1: int = 0
    top5: int = 0
    reference_top1: int = 0
    reference_top5: int = 0
    num_lost: int = 0
    num_gained: int = 0

    def add(self, reference: FloatArray, candidate: FloatArray, labels: IntArray) -> Float64Array:
        """Count the images of one batch and return their divergence, (rows,), nats.

        Args:
            reference: logits, (rows, classes).
            candidate: logits, (rows, classes).
            labels: (rows,), -1 where the label is not known.
        """
        self.num_agreeing += _count(metrics.top1(reference) == metrics.top1(candidate))
        divergence = metrics.kl_rows(reference, candidate)
        self.kl_sum = _add_one_by_one(self.kl_sum, divergence)
        known = labels >= 0
        if known.any():
            self._add_labelled(reference[known], candidate[known], labels[known])
        return divergence

    def _add_labelled(self, reference: FloatArray, candidate: FloatArray, labels: IntArray) -> None:
        reference_right = metrics.in_top_k(reference, labels, 1)
        right = metrics.in_top_k(candidate, labels, 1)
        self.num_labelled += len(labels)
        self.top1 += _count(right)
        self.top5 += _count(metrics.in_top_k(candidate, labels, TOP_K))
        self.reference_top1 += _count(reference_right)
        self.reference_top5 += _count(metrics.in_top_k(reference, labels, TOP_K))
        self.num_lost += _count(reference_right & ~right)
        self.num_gained += _count(right & ~reference_right)


def _add_one_by_one(total: float, values: Float64Array) -> float:
    for value in values.tolist():
        total += value
    return total


def _count(flags: BoolArray) -> int:
    return int(np.count_nonzero(flags))
