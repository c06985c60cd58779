"""A feature vector: a model without a head."""

from __future__ import annotations

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Size, Task, Wording
from edge_vit.tasks.measures import Measure
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray, cosine
from edge_vit.tasks.prediction import FeaturesPrediction, Prediction

MIN_COSINE = 0.999  # least cosine between two feature vectors that count as the same prediction
MIN_ROUGH_COSINE = 0.99  # the same where a precision is compared in the field


def _cosine(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return 1 - TASK.divergence(spec, reference, candidate)


class Features(Task):
    """A vector whose direction is compared with that of other images."""

    name = gives = "features"
    wording = Wording(
        subject="Nearest neighbour",
        agreement="Same answer: the same nearest neighbour among the other images.",
        divergence="1 − cosine {}",
        pictures="The model has no classes: the difference is between two feature vectors.",
    )
    has_labels = False
    has_head = False
    reads_class_folders = True
    needs_all_images = True
    disagreement_is_loss = True
    most_apart, most_roughly_apart = 1 - MIN_COSINE, 1 - MIN_ROUGH_COSINE
    measures = (Measure("cosine", "cosine, mean", compare=_cosine, has_row=False),)

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the vector, whatever `top` is."""
        values = np.asarray(self.values(spec, outputs), np.float64)
        return FeaturesPrediction(image, tuple(values.tolist()))

    def found_among(
        self, spec: ModelSpec, queries: Outputs, gallery: Outputs, own: IntArray
    ) -> IntArray:
        """Return each image's nearest neighbour among the others, by cosine."""
        rows = self.values(spec, gallery)
        if len(rows) < 2:
            raise SpecError(
                f"images to evaluate on: got {len(own)}, which show one picture, expected at "
                "least 2 different ones, since features are judged by their nearest neighbour"
            )
        return nearest_neighbours(self.values(spec, queries), rows, own)

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return 1 - cosine."""
        return 1 - cosine(self.values(spec, reference), self.values(spec, candidate))


def nearest_neighbours(
    queries: FloatArray, gallery: FloatArray, own: IntArray | None = None, block_size: int = 512
) -> IntArray:
    """Return for each query the row of the most similar *other* gallery row by cosine, (rows,).

    Similarities are computed for `block_size` queries at a time, so that memory grows with the
    images and not with their square. `own` is the row of `gallery`, (pictures, channels), that
    shows each query's own picture, which is left out; row i for query i where None.
    """
    queries, gallery = _unit_rows(queries), _unit_rows(gallery)
    own = np.arange(len(queries)) if own is None else own
    nearest = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), block_size):
        similarity = queries[start : start + block_size] @ gallery.T
        rows = np.arange(len(similarity))
        similarity[rows, own[start : start + block_size]] = -np.inf
        nearest[start : start + block_size] = np.argmax(similarity, axis=1)
    return nearest


def _unit_rows(rows: FloatArray) -> FloatArray:
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norm > 0, norm, 1.0)).astype(np.float32)


TASK = Features()
