"""Tasks with one output of classes or labels, each with a probability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Size, Task
from edge_vit.tasks.numerics import BoolArray, Float64Array, IntArray, activate
from edge_vit.tasks.prediction import Answer, ClassPrediction, Prediction


class NamedTask(Task):
    """A task whose output, (rows, size), holds the logits or probabilities of names."""

    gives_probabilities = True
    smoothing = ("ema", "majority")

    def probabilities(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return the probability of each class or label, (rows, size), 0 to 1."""
        assert spec.activation is not None
        return activate(spec.activation, self.values(spec, outputs))

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the `top` best names with their probability."""
        order = np.argsort(-self.values(spec, outputs), kind="stable")
        shares = self.probabilities(spec, outputs)
        return self.of_names(spec, shares, order, image, top, spec.threshold or 0.0)

    def of_names(
        self,
        spec: ModelSpec,
        shares: Float64Array,
        order: IntArray,
        image: str,
        top: int,
        threshold: float,
    ) -> Prediction:
        """Return the first `top` of `order`, each with its probability in `shares`, (size,)."""
        return ClassPrediction(image, answers_of(spec, shares, order[:top]))

    def averageable(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return the probabilities."""
        return self.probabilities(spec, outputs)

    def from_shares(
        self,
        spec: ModelSpec,
        shares: Float64Array,
        order: Sequence[int] | None,
        image: str,
        top: int,
    ) -> Prediction:
        """Return the prediction of mean probabilities, or of shares of votes: more than half."""
        if order is None:
            ordered = np.argsort(-shares, kind="stable")
            return self.of_names(spec, shares, ordered, image, top, spec.threshold or 0.0)
        return self.of_names(spec, shares, np.array(order), image, top, math.nextafter(0.5, 1))


def answers_of(spec: ModelSpec, shares: Float64Array, indices: IntArray) -> tuple[Answer, ...]:
    """Return the classes or labels of `indices` with their probability."""
    return tuple(Answer(int(i), spec.label(int(i)), float(shares[i])) for i in indices)


def first_of(values: Float64Array) -> BoolArray:
    """Return 1 at the largest value of each row and 0 elsewhere, (rows, size)."""
    on = np.zeros(values.shape, bool)
    on[np.arange(len(values)), values.argmax(axis=1)] = True
    return on
