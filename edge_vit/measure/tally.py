"""Running totals of one precision against the reference: exact, bounded, and parts add up.

Everything is a whole number or a smallest value, so neither the order of the images nor the part
that each came in changes a bit of the result. What is counted per image does not depend on the
others of its batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields

import numpy as np

from edge_vit.measure import metrics
from edge_vit.measure.exact import exact_sum
from edge_vit.measure.metrics import BoolArray, Float64Array, FloatArray, IntArray
from edge_vit.measure.task_tallies import Counts as Counts
from edge_vit.measure.task_tallies import LabelTally, ScoreTally
from edge_vit.measure.task_tallies import add_count as _add
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import named
from edge_vit.tasks.numerics import activate, cosine

TOP_K = 5
NUM_BINS = 15
"""Of the expected calibration error, as Guo et al. 2017 (arXiv 1706.04599) have them."""

_LOG_GROWTH = math.log(1.01)
_NOTHING = "least"  # the bucket of what is too small to matter
_LEAST = 1e-18


@dataclass
class AnswerTally:
    """The first answers of one session to labelled images.

    Attributes:
        top5: how many have their class among the first five.
        confusion: ``"true answered"`` -> images.
        bin_images: bin of the probability of the first class -> images.
        bin_right: the same -> images answered right.
        bin_score: the same -> sum of the scores, in the units of `exact_sum`.
    """

    top5: int = 0
    confusion: Counts = field(default_factory=dict)
    bin_images: Counts = field(default_factory=dict)
    bin_right: Counts = field(default_factory=dict)
    bin_score: Counts = field(default_factory=dict)

    def add(self, spec: ModelSpec, raw: FloatArray, labels: IntArray) -> BoolArray:
        """Count outputs (rows, classes) and labels (rows,); return which are right, (rows,)."""
        answers, scores = metrics.top1(raw), activate(spec.activation or "none", raw).max(axis=1)
        right: BoolArray = answers == labels
        self.top5 += _count(metrics.in_top_k(raw, labels, TOP_K))
        rows = zip(labels.tolist(), answers.tolist(), scores.tolist(), right.tolist(), strict=True)
        for label, answer, score, is_right in rows:
            place = str(min(int(score * NUM_BINS), NUM_BINS - 1))
            _add(self.confusion, f"{label} {answer}", 1)
            _add(self.bin_images, place, 1)
            _add(self.bin_right, place, int(is_right))
            _add(self.bin_score, place, exact_sum([score]))
        return right


@dataclass
class Tally:
    """What is added up over images: the first fields for any task, the others for some.

    Attributes:
        cosine: sum over images, in the units of `exact_sum`; likewise `signal`, `noise` and `kl`.
        cosine_min: the smallest.
        distances: bucket of ``1 - cosine`` -> images; each bucket ends 1 % above where it begins.
        divergences: the same of the KL divergence; of a regression, of the mean difference.
        num_agreeing: images with the same prediction: see `Task.same`; of
            `features`, with the same nearest neighbour.
        num_lost: labelled images that only the reference gets right.
        num_gained: labelled images that only the candidate gets right.
        labels: of `multi_label`.
        scores: of `regression`.
    """

    num_images: int = 0
    cosine: int = 0
    cosine_min: float = 1.0
    signal: int = 0
    noise: int = 0
    distances: Counts = field(default_factory=dict)
    num_agreeing: int = 0
    kl: int = 0
    divergences: Counts = field(default_factory=dict)
    num_labelled: int = 0
    num_lost: int = 0
    num_gained: int = 0
    reference: AnswerTally = field(default_factory=AnswerTally)
    candidate: AnswerTally = field(default_factory=AnswerTally)
    labels: LabelTally = field(default_factory=LabelTally)
    scores: ScoreTally = field(default_factory=ScoreTally)

    def add(self, reference: FloatArray, candidate: FloatArray) -> Float64Array:
        """Count the outputs of one batch, (rows, values) each; return ``1 - cosine``, (rows,)."""
        cosines = cosine(reference, candidate).tolist()
        signal, noise = metrics.power_rows(reference, candidate)
        self.num_images += len(cosines)
        self.cosine_min = min(self.cosine_min, *cosines)
        self.cosine += exact_sum(cosines)
        self.signal += exact_sum(signal.tolist())
        self.noise += exact_sum(noise.tolist())
        distance: Float64Array = 1 - np.array(cosines)
        for value in distance.tolist():
            _add(self.distances, _bucket(value), 1)
        return distance

    def add_predictions(
        self, spec: ModelSpec, reference: FloatArray, candidate: FloatArray, labels: IntArray
    ) -> Float64Array:
        """Count what the outputs of one batch stand for; return their divergence, (rows,).

        Args:
            spec: the model; of any task but `features`.
            reference: outputs, (rows, size).
            candidate: outputs, (rows, size).
            labels: (rows,), -1 where the label is not known; only of `classification`.
        """
        task, both = task_of(spec), (named(spec, reference), named(spec, candidate))
        self.num_agreeing += _count(task.same(spec, *both))
        divergence = task.divergence(spec, *both)
        for value in divergence.tolist():
            _add(self.divergences, _bucket(value), 1)
        if spec.task == "regression":
            assert spec.threshold is not None
            self.scores.add(reference, candidate, spec.threshold)
            return divergence
        self.kl += exact_sum(divergence.tolist())
        if spec.task == "multi_label":
            on = (task.votes(spec, each).astype(bool) for each in both)
            self.labels.add(*on)
        elif (known := labels >= 0).any():
            reference_right = self.reference.add(spec, reference[known], labels[known])
            right = self.candidate.add(spec, candidate[known], labels[known])
            self.num_labelled += len(right)
            self.num_lost += _count(reference_right & ~right)
            self.num_gained += _count(right & ~reference_right)
        return divergence


def merge_tallies(first: Tally, second: Tally) -> Tally:
    """Return the totals over the images of both."""
    return _merge(first, second)


def percentile_of(counts: Counts, percent: float) -> float:
    """Return the value that `percent` of those in a Tally's buckets do not exceed, within 1 %."""
    by_bucket = {-math.inf if key == _NOTHING else int(key): n for key, n in counts.items()}
    wanted, seen = math.ceil(percent / 100 * sum(counts.values())), 0
    for bucket, count in sorted(by_bucket.items()):
        seen += count
        if seen >= wanted:
            return 0.0 if bucket == -math.inf else math.exp(_LOG_GROWTH * (bucket + 0.5))
    raise AssertionError("some bucket holds the last value")


def _merge(first: object, second: object) -> Tally:
    """Add field by field; both are of the same dataclass."""
    merged: dict[str, object] = {}
    for each in fields(first):  # type: ignore[arg-type]
        one, other = getattr(first, each.name), getattr(second, each.name)
        if isinstance(one, int):
            merged[each.name] = one + other
        elif isinstance(one, float):
            merged[each.name] = min(one, other)
        elif isinstance(one, dict):
            total = Counter(one)
            total.update(other)
            merged[each.name] = dict(total)
        else:
            merged[each.name] = _merge(one, other)
    result: Tally = type(first)(**merged)  # type: ignore[assignment]
    return result


def _bucket(value: float) -> str:
    return str(math.floor(math.log(value) / _LOG_GROWTH)) if value > _LEAST else _NOTHING


def _count(flags: BoolArray) -> int:
    return int(np.count_nonzero(flags))
