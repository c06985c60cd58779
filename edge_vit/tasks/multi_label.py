"""Any number of labels, each on or off by itself."""

from __future__ import annotations

import numpy as np

from edge_vit.spec import Activation, ModelSpec
from edge_vit.tasks.base import Outputs, Wording
from edge_vit.tasks.classification import NamedTask, answers_of
from edge_vit.tasks.measures import Measure, divergence
from edge_vit.tasks.numerics import BoolArray, Float64Array, IntArray, bernoulli_kl
from edge_vit.tasks.prediction import LabelsPrediction, Prediction


def _same_labels(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    on, other = TASK.labels_on(spec, reference), TASK.labels_on(spec, candidate)
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
    measures = (
        Measure("label_agreement", "each label", compare=_same_labels, unit="share", has_row=False),
        Measure("kl", "KL (nats)", compare=divergence, has_row=False),
    )

    def refuse_threshold(self, threshold: float) -> str:
        """Return what a threshold of probabilities has to be, where this is none."""
        return "" if 0 < threshold < 1 else "more than 0 and less than 1"

    def labels_on(self, spec: ModelSpec, outputs: Outputs) -> BoolArray:
        """Return which labels are on, (rows, labels)."""
        assert spec.threshold is not None
        on: BoolArray = self.probabilities(spec, outputs) >= spec.threshold
        return on

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
        on = answers_of(spec, shares, order[shares[order] >= threshold])
        return LabelsPrediction(image, answers_of(spec, shares, order[:top]), on)

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


TASK = MultiLabel()
