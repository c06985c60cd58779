"""Tasks whose predictions are objects, each with a class and a score: compared in pairs."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_vit.spec import Activation, ModelSpec
from edge_vit.tasks.base import Outputs, Task
from edge_vit.tasks.detection.matching import match, pair_queries
from edge_vit.tasks.measures import Measure
from edge_vit.tasks.memo import once
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, IntArray


class Pairs(NamedTuple):
    """The objects of one image: how many each side has, and of each pair IoU and score drift."""

    ours: int
    theirs: int
    matched: Sequence[tuple[float, float]]

    def mean(self, of: int) -> float:
        """Return the mean of IoU or drift, NaN without a pair."""
        return float(np.mean([pair[of] for pair in self.matched])) if self.matched else np.nan


class MatchingTask(Task):
    """A task of objects above a threshold, found by queries."""

    default_threshold = 0.5
    gives_probabilities = True
    has_threshold = True
    has_direction = False
    disagreement_is_loss = True
    is_drawn = True
    default_top = 100
    most_roughly_apart: float | None = None

    @abstractmethod
    def found(self, spec: ModelSpec, outputs: Outputs, row: int) -> Any:
        """Return the objects above the model's threshold in the image of `row`."""

    @abstractmethod
    def facts(self, objects: Any) -> tuple[IntArray, Float64Array]:
        """Return the classes and the scores of what `found` returned, (objects,)."""

    @abstractmethod
    def overlaps(self, reference: Any, candidate: Any) -> Float64Array:
        """Return the IoU of each two of what `found` returned, (reference, candidate)."""

    def num_labels(self, columns: int, activation: Activation | None) -> int:
        """Return the classes: with softmax the last column stands for none of them."""
        return columns - (activation == "softmax")

    def refuse_threshold(self, threshold: float) -> str:
        """Return what a score may be where `threshold` is none."""
        return "" if 0 <= threshold < 1 else "at least 0 and less than 1"

    def shown_from(self, spec: ModelSpec, share: float) -> ModelSpec:
        """Return `spec` with that threshold."""
        return dataclasses.replace(spec, threshold=share)

    def paired(
        self, reference: Sequence[FloatArray], candidate: Sequence[FloatArray]
    ) -> Sequence[FloatArray]:
        """Return `candidate` with each query beside the one of `reference` that it stands for."""
        return pair_queries(reference, candidate)

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether every object has its partner, and none is left over."""
        pairs = self.pairs(spec, reference, candidate)
        return np.array([each.ours == each.theirs == len(each.matched) for each in pairs])

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return 1 - the IoU of pairs over all objects, 0 where there are none."""
        found = []
        for each in self.pairs(spec, reference, candidate):
            shared, every = sum(iou for iou, _ in each.matched), each.ours + each.theirs
            found.append(1 - shared / (every - len(each.matched)) if every else 0.0)
        return np.array(found)

    def pairs(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> list[Pairs]:
        """Return the objects of each row."""

        def pair(row: int) -> Pairs:
            ours, theirs = (self.found(spec, each, row) for each in (reference, candidate))
            (own, before), (other, after) = self.facts(ours), self.facts(theirs)
            found = match(self.overlaps(ours, theirs), own[:, None] == other)
            drifts = [(overlap, float(after[j] - before[i])) for i, j, overlap in found]
            return Pairs(len(own), len(other), drifts)

        rows = range(len(self.values(spec, reference)))
        # The reference is kept beside its pairs, so that no other one has its id.
        key = ("pairs", id(reference), spec)
        return once(candidate, key, lambda: (reference, list(map(pair, rows))))[1]


def pair_measures(noun: str, iou: str, drift: str) -> tuple[Measure, ...]:
    """Return the measures of pairs of objects, which are called `noun`; `iou` and `drift` name two.

    An image without what a measure is the mean of has no value.
    """

    def of(value: Callable[[Pairs], float]) -> Callable[..., Float64Array]:
        def compare(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
            from edge_vit.tasks import task_of  # whose tasks hold measures

            task = task_of(spec)
            assert isinstance(task, MatchingTask)
            return np.array([value(each) for each in task.pairs(spec, reference, candidate)])

        return compare

    def matched(each: Pairs) -> float:
        return len(each.matched) / each.ours if each.ours else np.nan

    def added(each: Pairs) -> float:
        return 1 - len(each.matched) / each.theirs if each.theirs else np.nan

    return (
        Measure(f"matched_{noun}", f"{noun} of fp32 matched", of(matched), unit="share"),
        Measure(f"added_{noun}", f"{noun} that fp32 has not", of(added), unit="share"),
        Measure(iou, "mean IoU of the matches", of(lambda each: each.mean(0))),
        Measure(drift, "mean difference of their scores", of(lambda each: each.mean(1))),
    )
