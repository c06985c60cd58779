"""A feature vector: a model without a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_vit.spec import Activation, ModelSpec
from edge_vit.tasks.base import Outputs, Size, Task, Wording, check_top, name_of
from edge_vit.tasks.numerics import BoolArray, Float64Array, cosine
from edge_vit.tasks.prediction import FeaturesPrediction, Prediction

MIN_COSINE = 0.999
"""Least cosine between two feature vectors that count as the same prediction."""
MIN_ROUGH_COSINE = 0.99
"""The same where a precision is compared in the field."""


class Features(Task):
    """A vector whose direction is compared with that of other images."""

    name = "features"
    wording = Wording(
        subject="Nearest neighbour",
        agreement="Same answer: the same nearest neighbour among the other images.",
        divergence="1 − cosine {}",
    )
    columns = ("class", "index", "score")
    has_labels = False
    has_head = False
    reads_class_folders = True
    needs_all_images = True
    disagreement_is_loss = True

    def output_name(self, activation: Activation | None = None) -> str:
        """Return ``features``."""
        return "features"

    def decode(
        self,
        spec: ModelSpec,
        outputs: Outputs,
        images: Sequence[str] = (),
        sizes: Sequence[Size] = (),
        *,
        top: int = 5,
    ) -> list[Prediction]:
        """Return the vector of each row, whatever `top` is."""
        check_top(top)
        values = np.asarray(self.values(spec, outputs), np.float64)
        return [
            FeaturesPrediction(name_of(images, row), tuple(vector.tolist()))
            for row, vector in enumerate(values)
        ]

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether the cosine is at least `MIN_COSINE`."""
        return 1 - self.divergence(spec, reference, candidate) >= MIN_COSINE

    def same_roughly(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether the cosine is at least `MIN_ROUGH_COSINE`."""
        return 1 - self.divergence(spec, reference, candidate) >= MIN_ROUGH_COSINE

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return 1 - cosine."""
        return 1 - cosine(self.values(spec, reference), self.values(spec, candidate))


TASK = Features()
