"""Tasks with one output of classes or labels, each with a probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Size, Task, check_top, name_of
from edge_vit.tasks.numerics import BoolArray, Float64Array, activate
from edge_vit.tasks.prediction import Answer, ClassPrediction, Prediction


class NamedTask(Task):
    """A task whose output, (rows, size), holds the logits or probabilities of names."""

    gives_probabilities = True
    smoothing = ("ema", "majority")

    def probabilities(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return the probability of each class or label, (rows, size), 0 to 1."""
        assert spec.activation is not None
        return activate(spec.activation, self.values(spec, outputs))

    def decode(
        self,
        spec: ModelSpec,
        outputs: Outputs,
        images: Sequence[str] = (),
        sizes: Sequence[Size] = (),
        *,
        top: int = 5,
    ) -> list[Prediction]:
        """Return the `top` best names of each row with their probability."""
        check_top(top)
        order = np.argsort(-self.values(spec, outputs), kind="stable", axis=1).tolist()
        shares = self.probabilities(spec, outputs)
        return [
            self.predict(spec, shares[row], best, name_of(images, row), top)
            for row, best in enumerate(order)
        ]

    def predict(
        self, spec: ModelSpec, shares: Float64Array, order: Sequence[int], image: str, top: int
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
        """Return the prediction of mean probabilities, or of shares of votes."""
        if order is None:
            order = np.argsort(-shares, kind="stable").tolist()
        return self.predict(spec, shares, order, image, top)


def answers_of(spec: ModelSpec, shares: Float64Array, indices: Sequence[int]) -> tuple[Answer, ...]:
    """Return the classes or labels of `indices` with their probability."""
    return tuple(Answer(int(i), spec.label(int(i)), float(shares[i])) for i in indices)


def first_of(values: Float64Array) -> BoolArray:
    """Return 1 at the largest value of each row and 0 elsewhere, (rows, size)."""
    on = np.zeros(values.shape, bool)
    on[np.arange(len(values)), values.argmax(axis=1)] = True
    return on
