"""Tasks of names with probabilities: one class of several, and any number of labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_vit.spec import Activation, ModelSpec
from edge_vit.tasks.base import Order, Outputs, Size, Task, Wording
from edge_vit.tasks.label_sets import MAP_DROP, MEASURES
from edge_vit.tasks.measures import Judge, Measure, divergence
from edge_vit.tasks.numerics import (
    BoolArray,
    Float64Array,
    IntArray,
    activate,
    bernoulli_kl,
    in_top_k,
    probability_kl,
    softmax_kl,
)
from edge_vit.tasks.prediction import ClassPrediction, ClassScore, LabelsPrediction, Prediction


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
        return ClassPrediction(image, class_scores_of(spec, shares, order[:top]))

    def averageable(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return the probabilities."""
        return self.probabilities(spec, outputs)

    def from_shares(
        self, spec: ModelSpec, shares: Float64Array, order: Order, image: str, top: int
    ) -> Prediction:
        """Return the prediction of mean probabilities, or of shares of votes: more than half."""
        if order is None:
            ordered = np.argsort(-shares, kind="stable")
            return self.of_names(spec, shares, ordered, image, top, spec.threshold or 0.0)
        return self.of_names(spec, shares, np.array(order), image, top, math.nextafter(0.5, 1))


def class_scores_of(
    spec: ModelSpec, shares: Float64Array, indices: IntArray
) -> tuple[ClassScore, ...]:
    """Return the classes or labels of `indices` with their probability."""
    return tuple(ClassScore(int(i), spec.label(int(i)), float(shares[i])) for i in indices)


def _in_top(most: int) -> Judge:
    """Return the judge of whether an image's class is among the `most` largest outputs."""

    def judge(spec: ModelSpec, outputs: Outputs, truth: Sequence[Any]) -> Float64Array:
        values = outputs[spec.outputs[0].name]
        known = np.array([label is not None for label in truth])
        labels = np.array([label or 0 for label in truth])
        return np.where(known, in_top_k(values, labels, most), np.nan)

    return judge


class Classification(NamedTask):
    """The class of the largest output."""

    name = "classification"
    wording = Wording(
        subject="First answer",
        agreement=(
            "Without labels top-1 is unknown; it drops by at most the share of other answers."
        ),
        divergence="KL {} nats",
        pictures="Bars are probabilities; an answer with ✕ is not the true label.",
    )
    aliases = ("single_label_classification",)
    default_activation: Activation = "softmax"
    has_classes = True
    reads_class_folders = True
    measures = (
        Measure("top1", "top-1", judge=_in_top(1), unit="share", has_row=False),
        Measure("top5", "top-5", judge=_in_top(5), unit="share", has_row=False),
        Measure("kl", "KL (nats)", compare=divergence, has_row=False),
    )

    def upgrade(self, spec: ModelSpec, manifest_format: int) -> ModelSpec:
        """Return a model of one output as a regression: format 1 had no other task for it.

        Its only class would have 100 % for any image.
        """
        if manifest_format == 1 and spec.num_outputs == 1:
            return dataclasses.replace(spec, task="regression", activation="none", threshold=0.0)
        return spec

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether the first class is the same."""
        first, other = (self.values(spec, each).argmax(axis=1) for each in (reference, candidate))
        same: BoolArray = first == other
        return same

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return KL(reference || candidate) of the probabilities, nats."""
        first, other = self.values(spec, reference), self.values(spec, candidate)
        if spec.activation == "sigmoid":
            return bernoulli_kl(first, other, "sigmoid")
        return (softmax_kl if spec.activation == "softmax" else probability_kl)(first, other)

    def votes(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return 1 for the first class."""
        values = self.values(spec, outputs)
        votes = np.zeros(values.shape)
        votes[np.arange(len(values)), values.argmax(axis=1)] = 1
        return votes


def _same_labels(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    on, other = MULTI_LABEL.labels_on(spec, reference), MULTI_LABEL.labels_on(spec, candidate)
    share: Float64Array = (on == other).mean(axis=1)
    return share


class MultiLabel(NamedTask):
    """Every label whose probability reaches the threshold."""

    name = "multi_label"
    wording = Wording(
        subject="The set of labels",
        agreement="Same answer: all labels are equally on or off.",
        divergence="KL {} nats",
    )
    columns = ("label", "", "index", "probability")
    num_word_columns = 3
    aliases = ("multi_label_classification",)
    default_activation: Activation = "sigmoid"
    default_threshold = 0.5
    has_threshold = True
    has_label_sets = True
    loss_measure = MAP_DROP
    measures = (
        *MEASURES,
        Measure("label_agreement", "each label", compare=_same_labels, unit="share", has_row=False),
        Measure("kl", "KL (nats)", compare=divergence, has_row=False),
    )

    def refuse_threshold(self, threshold: float) -> str:
        """Return what a threshold of probabilities has to be, where this is none."""
        return "" if 0 < threshold < 1 else "more than 0 and less than 1"

    def labels_on(self, spec: ModelSpec, outputs: Outputs) -> BoolArray:
        """Return which labels are on, (rows, labels)."""
        assert spec.threshold is not None
        return self.probabilities(spec, outputs) >= spec.threshold

    def of_names(
        self,
        spec: ModelSpec,
        shares: Float64Array,
        order: IntArray,
        image: str,
        top: int,
        threshold: float,
    ) -> Prediction:
        """Return the first `top` labels of `order`, and all that reach the threshold."""
        on = class_scores_of(spec, shares, order[shares[order] >= threshold])
        return LabelsPrediction(image, class_scores_of(spec, shares, order[:top]), on)

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether all labels are equally on or off."""
        same: BoolArray = (self.labels_on(spec, reference) == self.labels_on(spec, candidate)).all(
            axis=1
        )
        return same

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return KL(reference || candidate), nats, summed over labels."""
        assert spec.activation is not None
        first, other = self.values(spec, reference), self.values(spec, candidate)
        return bernoulli_kl(first, other, spec.activation)

    def votes(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return 1 for each label that is on."""
        return self.labels_on(spec, outputs).astype(np.float64)


TASK = Classification()
MULTI_LABEL = MultiLabel()
