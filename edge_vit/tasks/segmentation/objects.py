"""The tasks of objects with masks, and of objects and regions together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.spec import Activation, ModelSpec, PreprocessSpec, TensorSpec
from edge_vit.tasks.base import Outputs, Size, Wording
from edge_vit.tasks.detection.matching import pair_queries
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray
from edge_vit.tasks.prediction import Prediction
from edge_vit.tasks.segmentation.decoding import (
    CLASSES,
    MASKS,
    ClassMap,
    Segment,
    instances,
    painted,
    panoptic,
)
from edge_vit.tasks.segmentation.drawing import draw_segments
from edge_vit.tasks.segmentation.prediction import SegmentsPrediction
from edge_vit.tasks.segmentation.segment_measures import (
    MATCHED,
    match_segments,
    segment_measures,
)
from edge_vit.tasks.segmentation.semantic import PICTURES, Segmentation


class InstanceSegmentation(Segmentation):
    """Objects, each with a class, a score and a mask."""

    name = "instance_segmentation"
    wording = Wording(
        subject="The set of segments",
        agreement=(
            "Same answer: every segment above the threshold has a partner of its class with an IoU "
            "of at least 0.5, and none is left over."
        ),
        divergence="1 − shared IoU {}",
        pictures=PICTURES,
    )
    columns = ("class", "index", "score", "box", "share of the pixels")
    default_threshold = 0.5
    gives_map = False
    has_threshold = True
    shown_measure = MATCHED
    is_panoptic = False

    _wanted = (
        "class_logits (batch, queries, classes) and mask_logits (batch, queries, rows, columns)"
    )

    def _measures(self) -> tuple[Any, ...]:
        return (*super()._measures(), *segment_measures(self._segments))

    def outputs(
        self, size: int, batch: int | None = None, activation: Activation | None = None
    ) -> tuple[TensorSpec, ...]:
        """Return class logits (batch, queries, size) and mask logits (batch, queries, …)."""
        shape = (batch or "batch", "queries")
        return (
            TensorSpec(CLASSES, "float32", (*shape, size)),
            TensorSpec(MASKS, "float32", (*shape, "rows", "columns")),
        )

    def output_name(self, activation: Activation | None = None) -> str:
        """Return ``class_logits``."""
        return CLASSES

    def width_of(self, shape: tuple[int | str, ...]) -> int | str:
        """Return the number of columns of the class logits."""
        return shape[-1]

    def num_labels(self, columns: int, activation: Activation | None) -> int:
        """Return the classes: with softmax the last column stands for none of them."""
        return columns - (activation == "softmax")

    def refuse_threshold(self, threshold: float) -> str:
        """Return what a score may be where `threshold` is none."""
        return "" if 0 <= threshold < 1 else "at least 0 and less than 1"

    def _has_logits(self, shapes: Mapping[str, tuple[int | str, ...]]) -> bool:
        return False

    def _check_classes(self, spec: ModelSpec) -> None:
        """Objects may be of one class, and of several by sigmoid."""

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the segments above the model's threshold, made when they are asked for."""
        return SegmentsPrediction(image, spec, outputs, size, top, is_panoptic=self.is_panoptic)

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether every segment has its partner, and none is left over."""
        return np.array([n == m == k for n, m, k, _ in self._pairs(spec, reference, candidate)])

    same_roughly = same

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return 1 - the IoU of pairs over all segments, 0 where there are none."""
        return np.array(
            [
                1 - shared / (n + m - k) if n + m else 0.0
                for n, m, k, shared in self._pairs(spec, reference, candidate)
            ]
        )

    def paired(
        self, reference: Sequence[FloatArray], candidate: Sequence[FloatArray]
    ) -> Sequence[FloatArray]:
        """Return `candidate` with each query beside the one of `reference` that it stands for."""
        return pair_queries(reference, candidate)

    def shown_from(self, spec: ModelSpec, share: float) -> ModelSpec:
        """Return `spec` with that threshold."""
        return dataclasses.replace(spec, threshold=share)

    def _find(
        self, spec: ModelSpec, outputs: Outputs, size: Size, preprocess: PreprocessSpec | None
    ) -> list[Segment]:
        decode = panoptic if self.is_panoptic else instances
        return decode(spec, outputs, size, preprocess)

    def _decode(
        self, spec: ModelSpec, outputs: Outputs, size: Size, preprocess: PreprocessSpec | None
    ) -> ClassMap:
        return painted(self._find(spec, outputs, size, preprocess), size)

    def _class_maps(self, spec: ModelSpec, outputs: Outputs) -> Sequence[ClassMap]:
        size = spec.preprocess.image_size
        return [painted(each, size) for each in self._every(spec, outputs)]

    def _every(self, spec: ModelSpec, outputs: Outputs) -> Sequence[list[Segment]]:
        """Return the segments of each row in the pixels of the model's input."""
        size = spec.preprocess.image_size
        return self._each(spec, outputs, lambda own: self._find(spec, own, size, None))

    def _segments(self, spec: ModelSpec, outputs: Outputs, row: int) -> Sequence[Segment]:
        return self._every(spec, outputs)[row]

    def _shown(self, spec: ModelSpec, picture: Any, own: Outputs) -> Any:
        segments = self._find(spec, own, (picture.height, picture.width), None)
        return draw_segments(picture, segments, spec, is_named=False)

    def _pairs(
        self, spec: ModelSpec, reference: Outputs, candidate: Outputs
    ) -> list[tuple[int, int, int, float]]:
        """Return of each row: segments of the reference, of the candidate, pairs, their IoU."""
        counts = []
        every = zip(self._every(spec, reference), self._every(spec, candidate), strict=True)
        for ours, theirs in every:
            pairs = match_segments(ours, theirs)
            shared = sum(overlap for _, _, overlap in pairs)
            counts.append((len(ours), len(theirs), len(pairs), shared))
        return counts


class PanopticSegmentation(InstanceSegmentation):
    """Objects and regions, each pixel in one at most."""

    name = "panoptic_segmentation"
    is_panoptic = True
