"""Running totals of one precision against the reference: exact, bounded, and parts add up.

Everything is a whole number or a smallest value, so neither the order of the images nor the part
that each came in changes a bit of the result. What is counted per image does not depend on the
others of its batch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from edge_vit.measure import metrics
from edge_vit.measure.exact import exact_sum
from edge_vit.measure.measured import join_columns
from edge_vit.measure.metrics import BoolArray, Float64Array, FloatArray, IntArray
from edge_vit.measure.task_tallies import Counts as Counts
from edge_vit.measure.task_tallies import LabelTally, ScoreTally
from edge_vit.measure.task_tallies import add_count as _add
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.numerics import activate, cosine, in_top_k

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
        self.top5 += _count(in_top_k(raw, labels, TOP_K))
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
        num_agreeing: images with the same prediction: see `Task.same` and
            `Task.found_among`.
        num_lost: labelled images that only the reference gets right.
        num_gained: labelled images that only the candidate gets right.
        labels: of `multi_label`.
        scores: of `regression`.
        measured: of each image, by measure: see `edge_vit.measure.measured`.
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
    measured: dict[str, Any] = field(default_factory=dict)

    def add(self, reference: Outputs, candidate: Outputs) -> None:
        """Count all outputs of one batch, a row for each image."""
        first, other = flatten(reference), flatten(candidate)
        cosines = cosine(first, other).tolist()
        signal, noise = metrics.power_rows(first, other)
        self.num_images += len(cosines)
        self.cosine_min = min(self.cosine_min, *cosines)
        self.cosine += exact_sum(cosines)
        self.signal += exact_sum(signal.tolist())
        self.noise += exact_sum(noise.tolist())
        for value in cosines:
            _add(self.distances, _bucket(1 - value), 1)

    def add_predictions(
        self,
        spec: ModelSpec,
        reference: Outputs,
        candidate: Outputs,
        same: BoolArray,
        divergence: Float64Array,
        labels: IntArray,
    ) -> None:
        """Count what the outputs of one batch stand for.

        Args:
            spec: the model; of a task whose images are judged one by one.
            reference: outputs, a row for each image.
            candidate: likewise.
            same: which rows are the same prediction, (rows,).
            divergence: of each row, (rows,).
            labels: (rows,), -1 where the class is not known.
        """
        self.num_agreeing += _count(same)
        for value in divergence.tolist():
            _add(self.divergences, _bucket(value), 1)
        task = task_of(spec)
        if task.gives_probabilities:
            self.kl += exact_sum(divergence.tolist())
        on = task.labels_on(spec, reference), task.labels_on(spec, candidate)
        if on[0] is not None and on[1] is not None:
            self.labels.add(on[0], on[1])
        scores = task.scores(spec, reference), task.scores(spec, candidate)
        if scores[0] is not None and scores[1] is not None:
            self.scores.add(scores[0], scores[1], spec.threshold or 0.0)
        if task.has_classes and (known := labels >= 0).any():
            rows = (task.values(spec, each)[known] for each in (reference, candidate))
            right = [
                side.add(spec, values, labels[known])
                for side, values in zip((self.reference, self.candidate), rows, strict=True)
            ]
            self.num_labelled += len(right[0])
            self.num_lost += _count(right[0] & ~right[1])
            self.num_gained += _count(right[1] & ~right[0])


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
        elif each.name == "measured":
            merged[each.name] = join_columns(one, other)
        elif isinstance(one, dict):
            total = Counter(one)
            total.update(other)
            merged[each.name] = dict(total)
        else:
            merged[each.name] = _merge(one, other)
    result: Tally = type(first)(**merged)  # type: ignore[assignment]
    return result


def flatten(outputs: Outputs) -> FloatArray:
    """Return all values of each image, (rows, values), output after output."""
    return np.concatenate([each.reshape(len(each), -1) for each in outputs.values()], axis=1)


def _bucket(value: float) -> str:
    return str(math.floor(math.log(value) / _LOG_GROWTH)) if value > _LEAST else _NOTHING


def _count(flags: BoolArray) -> int:
    return int(np.count_nonzero(flags))
