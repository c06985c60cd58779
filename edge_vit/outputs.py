"""What a model's raw outputs mean: probabilities, predictions, and how far two outputs are apart.

Every consumer of outputs goes through here, so that an activation is applied exactly once. Outputs
are float arrays (..., size) as a session returns them: logits, probabilities, scores or features,
as `ModelSpec.task` and `ModelSpec.activation` say. All arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.answers import Answer, Score
from edge_vit.errors import SpecError
from edge_vit.spec import Activation, ModelSpec, Task

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MIN_COSINE = 0.999
"""Least cosine between two feature vectors that count as the same prediction."""

_LEAST = 1e-300


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        image: its path or its name in the source; ``array`` where it came as one.
        answers: classes or labels with their probability, best first; empty for other tasks.
        features: the feature vector where that is the task, else None.
        labels_on: of `multi_label`, the labels whose probability reaches the model's threshold,
            best first; else None.
        scores: of `regression`, every score in order; else None.
        above: of `regression`, whether each score reaches the model's threshold; else None.
    """

    image: str
    answers: tuple[Answer, ...]
    features: tuple[float, ...] | None = None
    labels_on: tuple[Answer, ...] | None = None
    scores: tuple[Score, ...] | None = None
    above: tuple[bool, ...] | None = None

    @property
    def key(self) -> object:
        """Return what tells predictions apart: first class, labels on, or sides of the threshold.

        None of `features`.
        """
        if self.labels_on is not None:
            return frozenset(answer.index for answer in self.labels_on)
        return self.answers[0].index if self.answers else self.above


def softmax(logits: FloatArray) -> Float64Array:
    """Return the softmax of `logits` (..., classes) over the last axis, computed in float64.

    The largest logit is subtracted first, so that no finite logits overflow.
    """
    wide = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    result: Float64Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: FloatArray) -> Float64Array:
    """Return the logistic function of each of `logits`, without overflow."""
    wide = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(wide))
    result: Float64Array = np.where(wide >= 0, 1.0, small) / (1 + small)
    return result


def log_sigmoid(logits: FloatArray) -> Float64Array:
    """Return the logarithm of the logistic function of each of `logits`, finite for finite ones."""
    found: Float64Array = -np.logaddexp(0, -np.asarray(logits, np.float64))
    return found


def probabilities(spec: ModelSpec, outputs: FloatArray) -> Float64Array:
    """Return the probability of each class or label, (..., size), 0 to 1.

    Raises:
        SpecError: the model's task has no probabilities.
    """
    if not spec.gives_probabilities:
        raise SpecError(f"{spec.name} gives {spec.outputs[0].name}, which are no probabilities")
    assert spec.activation is not None
    return activate(spec.activation, outputs)


def activate(activation: Activation, outputs: FloatArray) -> Float64Array:
    """Return `outputs` (..., size) with `activation` applied over the last axis, float64."""
    return _ACTIVATIONS[activation](np.asarray(outputs, np.float64))


def predict(spec: ModelSpec, output: FloatArray, top: int = 5, image: str = "array") -> Prediction:
    """Return the prediction that the output of one image, (size,), stands for.

    Equal outputs are ordered by index.

    Args:
        spec: the model.
        output: finite.
        top: how many classes or labels to return, at least 1; all where there are fewer.
        image: its name.

    Raises:
        SpecError: `top` is below 1.
    """
    if top < 1:
        raise SpecError(f"top: got {top}, expected at least 1 answer")
    return _PREDICT[spec.task](spec, np.asarray(output, np.float64), top, image)


def predict_averaged(
    spec: ModelSpec, values: FloatArray, top: int = 5, image: str = "array"
) -> Prediction:
    """Return the prediction of probabilities or scores, (size,), that were averaged over images.

    Args:
        spec: the model, of any task but `features`.
        values: what `averageable` gave, averaged.
        top: as in `predict`, and so is `image`.
        image: its name.
    """
    if spec.task == "regression":
        return _score(spec, np.asarray(values, np.float64), top, image)
    return _named(spec, values, values, top, image)


def averageable(spec: ModelSpec, output: FloatArray) -> Float64Array:
    """Return what may be averaged over images of an output: probabilities, or scores themselves."""
    return probabilities(spec, output) if spec.gives_probabilities else np.asarray(output, float)


def labels_on(spec: ModelSpec, outputs: FloatArray) -> BoolArray:
    """Return which labels, or scores, reach the model's threshold, (..., size)."""
    assert spec.threshold is not None
    values = probabilities(spec, outputs) if spec.gives_probabilities else np.asarray(outputs)
    on: BoolArray = values >= spec.threshold
    return on


def same_prediction(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> BoolArray:
    """Return for each row whether both outputs, (rows, size), stand for the same prediction.

    The same first class of `classification`; all labels equally on or off of `multi_label`; every
    score on the same side of the threshold of `regression`, whatever its size; a cosine of at least
    `MIN_COSINE` of `features`.
    """
    same: BoolArray = _SAME[spec.task](spec, reference, candidate)
    return same


def divergence(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return how far each row of `candidate` is from `reference`, (rows, size) each: (rows,).

    KL(reference || candidate) in nats of `classification` and, summed over labels, of
    `multi_label`; the mean absolute difference of the scores of `regression`; 1 - cosine of
    `features`. Never negative.
    """
    apart: Float64Array = _DIVERGENCE[spec.task](spec, reference, candidate)
    return apart


def cosine(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return the cosine of each pair of rows, (rows,), from -1 to 1.

    Two rows of zeros count as equal (1), one row of zeros as unrelated (0).
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = (a * b).sum(axis=1) / np.where(product > 0, product, 1.0)
    # Equal rows are equal to the last bit, which rounding in the quotient must not hide.
    return np.where((a == b).all(axis=1), 1.0, np.clip(found, -1.0, 1.0))


def softmax_kl(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return KL(softmax(reference) || softmax(candidate)) of each pair of rows, (rows,), nats."""
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    kl: Float64Array = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(kl, 0.0)  # rounding can leave -1e-17, which no divergence is


def log_softmax(logits: FloatArray) -> Float64Array:
    """Return the logarithm of the softmax of `logits` (..., classes), finite for finite ones."""
    wide = np.asarray(logits, np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    found: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def _bernoulli_kl(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return KL of independent labels, summed over them, (rows,)."""
    total = np.zeros(len(reference))
    if spec.activation == "sigmoid":
        x, y = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
        for sign in (1, -1):
            on, off = log_sigmoid(sign * x), log_sigmoid(sign * y)
            total += (np.exp(on) * (on - off)).sum(axis=1)
        return np.maximum(total, 0.0)
    p, q = probabilities(spec, reference), probabilities(spec, candidate)
    for one, other in ((p, q), (1 - p, 1 - q)):
        one, other = np.clip(one, _LEAST, 1), np.clip(other, _LEAST, 1)
        total += (one * (np.log(one) - np.log(other))).sum(axis=1)
    return np.maximum(total, 0.0)


def _classification_kl(
    spec: ModelSpec, reference: FloatArray, candidate: FloatArray
) -> Float64Array:
    if spec.activation == "sigmoid":
        return _bernoulli_kl(spec, reference, candidate)
    if spec.activation == "softmax":
        return softmax_kl(reference, candidate)
    # The softmax of a logarithm gives the probabilities back, and makes their sum exactly 1.
    return softmax_kl(*(np.log(np.clip(x, _LEAST, None)) for x in (reference, candidate)))


def _named(
    spec: ModelSpec, ordering: FloatArray, shares: FloatArray, top: int, image: str
) -> Prediction:
    """Return the `top` largest of `ordering`, (size,), each with its probability in `shares`."""
    best = np.argsort(-np.asarray(ordering), kind="stable")

    def name(indices: NDArray[np.intp]) -> tuple[Answer, ...]:
        return tuple(Answer(i, spec.label(i), float(shares[i])) for i in indices.tolist())

    on = None
    if spec.task == "multi_label":
        assert spec.threshold is not None
        on = name(best[np.asarray(shares)[best] >= spec.threshold])
    return Prediction(image, name(best[:top]), labels_on=on)


def _name(spec: ModelSpec, output: Float64Array, top: int, image: str) -> Prediction:
    return _named(spec, output, probabilities(spec, output), top, image)


def _score(spec: ModelSpec, output: Float64Array, top: int, image: str) -> Prediction:
    scores = tuple(Score(i, spec.label(i), float(value)) for i, value in enumerate(output))
    return Prediction(image, (), scores=scores, above=tuple(labels_on(spec, output).tolist()))


def _embed(spec: ModelSpec, output: Float64Array, top: int, image: str) -> Prediction:
    return Prediction(image, (), features=tuple(output.tolist()))


def _same_first(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> BoolArray:
    same: BoolArray = np.argmax(reference, axis=1) == np.argmax(candidate, axis=1)
    return same


def _same_sides(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> BoolArray:
    same: BoolArray = (labels_on(spec, reference) == labels_on(spec, candidate)).all(axis=1)
    return same


def _same_direction(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> BoolArray:
    same: BoolArray = cosine(reference, candidate) >= MIN_COSINE
    return same


def _mean_difference(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> Float64Array:
    difference = np.asarray(reference, np.float64) - np.asarray(candidate, np.float64)
    found: Float64Array = np.abs(difference).mean(axis=1)
    return found


def _distance(spec: ModelSpec, reference: FloatArray, candidate: FloatArray) -> Float64Array:
    return 1 - cosine(reference, candidate)


_ACTIVATIONS: Mapping[Activation, Callable[[FloatArray], Float64Array]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda outputs: np.asarray(outputs, np.float64),
}
_PREDICT: Mapping[Task, Callable[[ModelSpec, Float64Array, int, str], Prediction]] = {
    "classification": _name,
    "multi_label": _name,
    "regression": _score,
    "features": _embed,
}
_Rows = Callable[[ModelSpec, FloatArray, FloatArray], Any]
_SAME: Mapping[Task, _Rows] = {
    "classification": _same_first,
    "multi_label": _same_sides,
    "regression": _same_sides,
    "features": _same_direction,
}
_DIVERGENCE: Mapping[Task, _Rows] = {
    "classification": _classification_kl,
    "multi_label": _bernoulli_kl,
    "regression": _mean_difference,
    "features": _distance,
}
