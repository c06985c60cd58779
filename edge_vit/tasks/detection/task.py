"""The task: decoding, comparison and drawing of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, ModelSpec, TensorSpec
from edge_vit.tasks.base import Outputs, Size, Wording
from edge_vit.tasks.detection.average_precision import AP_DROP
from edge_vit.tasks.detection.boxes import iou
from edge_vit.tasks.detection.decoding import BOXES, Found, find_boxes
from edge_vit.tasks.detection.matched import MatchingTask
from edge_vit.tasks.detection.matching import align
from edge_vit.tasks.detection.measures import MEASURES
from edge_vit.tasks.detection.prediction import Box, DetectionPrediction
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray
from edge_vit.tasks.prediction import Prediction


class Detection(MatchingTask):
    """Objects in an image: a class, a score and a box each."""

    name = "detection"
    wording = Wording(
        subject="The set of boxes",
        agreement=(
            "Same answer: every box above the threshold has a partner of its class with an IoU of "
            "at least 0.5, and none is left over."
        ),
        divergence="1 − shared IoU {}",
        pictures=(
            "Boxes above the threshold: the reference's in yellow with their labels above, this "
            "precision's in magenta with their labels below."
        ),
    )
    columns = ("class", "index", "score", "box")
    default_activation: Activation = "sigmoid"
    has_boxes = True
    shown_measure = "matched_boxes"
    measures = MEASURES
    loss_measure = AP_DROP

    def outputs(
        self, size: int, batch: int | None = None, activation: Activation | None = None
    ) -> tuple[TensorSpec, ...]:
        """Return class outputs (batch, queries, size) and boxes (batch, queries, 4)."""
        shape = (batch or "batch", "queries")
        return (
            TensorSpec(self.output_name(activation), "float32", (*shape, size)),
            TensorSpec(BOXES, "float32", (*shape, 4)),
        )

    def guess_activation(self, values: FloatArray) -> tuple[Activation, str]:
        """Return softmax where the last column wins in most queries: it stands for "no object"."""
        last = np.asarray(values)[..., -1:]
        share = float(np.mean(last >= values.max(axis=-1, keepdims=True)))
        activation: Activation = "softmax" if share > 0.5 else self.default_activation
        other = "sigmoid" if activation == "softmax" else "softmax"
        return activation, (
            f"the last class column is the largest in {share:.0%} of the queries: {activation} is "
            f"applied. Add --activation {other} if the model was trained with that"
        )

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model without boxes, or with other numbers of boxes than of classes."""
        super().check(spec)
        shapes = {output.name: output.shape for output in spec.outputs}
        given = [spec.outputs[0].shape, shapes.get(BOXES, ())]
        if any(len(shape) != 3 for shape in given) or given[0][1] != given[1][1]:
            got = ", ".join(f"{output.name} {output}" for output in spec.outputs)
            raise SpecError(
                f"outputs of {spec.name}: got {got}, expected logits (batch, queries, classes) and "
                "boxes (batch, queries, 4)"
            )

    def found(self, spec: ModelSpec, outputs: Outputs, row: int) -> Found:
        """Return the boxes above the model's threshold in the image of `row`, in shares of it."""
        own = {output.name: outputs[output.name][row] for output in spec.outputs}
        return find_boxes(spec, own, min_score=spec.threshold or 0.0)

    def facts(self, objects: Found) -> tuple[IntArray, Float64Array]:
        """Return the classes and the scores of boxes."""
        return objects.classes, objects.scores

    def overlaps(self, reference: Found, candidate: Found) -> Float64Array:
        """Return the IoU of each two boxes."""
        return iou(reference.boxes, candidate.boxes)

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the boxes above the model's threshold, in the pixels of `size`."""
        found = find_boxes(spec, outputs, size, min_score=spec.threshold or 0.0)
        boxes = zip(
            found.classes[:top].tolist(),
            found.scores[:top].tolist(),
            found.boxes[:top].tolist(),
            strict=True,
        )
        return DetectionPrediction(
            image,
            tuple(Box(index, spec.label(index), score, tuple(box)) for index, score, box in boxes),
        )

    def aligned(
        self, spec: ModelSpec, reference: Outputs, candidate: Outputs
    ) -> tuple[Outputs, Outputs]:
        """Return both with visible queries paired and the others set to zero."""
        return align(spec, reference, candidate)

    def overlay(self, spec: ModelSpec, picture: Any, reference: Outputs, candidate: Outputs) -> Any:
        """Return `picture` with the boxes of both."""
        from edge_vit.tasks.detection.drawing import draw_both

        ours, theirs = (
            [
                Box(index, spec.label(index), score, (x1, y1, x2, y2))
                for index, score, (x1, y1, x2, y2) in self.found(spec, each, 0).rows(picture.size)
            ]
            for each in (reference, candidate)
        )
        return draw_both(picture, ours, theirs)

    def to_coco(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Return all boxes; an image's id is the number that its name is, or its place from 1."""
        entries: list[dict[str, Any]] = []
        for place, prediction in enumerate(predictions, 1):
            assert isinstance(prediction, DetectionPrediction)
            stem = Path(prediction.image).stem
            entries += prediction.to_coco(int(stem) if stem.isdecimal() else place)
        return entries


TASK = Detection()
