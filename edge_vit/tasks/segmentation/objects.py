"""The tasks of objects with masks, and of objects and regions together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.spec import Activation, ModelSpec, PreprocessSpec, TensorSpec
from edge_vit.tasks.base import Outputs, Size, Wording
from edge_vit.tasks.coco import Annotated, KeyOf, read_annotations
from edge_vit.tasks.detection.matched import MatchingTask, pair_measures
from edge_vit.tasks.measures import Measure, MeasureValue
from edge_vit.tasks.memo import once
from edge_vit.tasks.numerics import Float64Array, IntArray
from edge_vit.tasks.prediction import Prediction
from edge_vit.tasks.segmentation.decoding import (
    CLASSES,
    MASKS,
    ClassMap,
    Segment,
    by_class,
    instances,
    numbered,
    painted,
    panoptic,
)
from edge_vit.tasks.segmentation.drawing import draw_segments
from edge_vit.tasks.segmentation.mask_precision import MEASURES as MASK_PRECISION
from edge_vit.tasks.segmentation.object_truth import of_coco
from edge_vit.tasks.segmentation.panoptic_quality import quality_measures
from edge_vit.tasks.segmentation.prediction import SegmentsPrediction
from edge_vit.tasks.segmentation.semantic import PICTURES, Segmentation, row_of

PAIRED = pair_measures("segments", "mean_mask_iou", "segment_score_drift")


class InstanceSegmentation(MatchingTask, Segmentation):
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
    gives_map = False
    shown_measure = PAIRED[0].name
    is_panoptic = False

    _wanted = (
        "class_logits (batch, queries, classes) and mask_logits (batch, queries, rows, columns)"
    )

    def _measures(self) -> tuple[Any, ...]:
        return (*self._judged(), *super()._measures(), *PAIRED)

    def _judged(self) -> tuple[Measure, ...]:
        """Return the measures of true objects."""
        return MASK_PRECISION

    def loss_of(self, measures: Mapping[str, MeasureValue]) -> str:
        """Return the loss of true objects or segments, else that of pixels."""
        judged = measures.get(self._judged()[-1].name, MeasureValue(None))
        is_known = judged.value is not None
        return self._judged()[-1].name if is_known else super().loss_of(measures)

    def read_annotations(
        self, spec: ModelSpec, path: Path, key_of: KeyOf
    ) -> Mapping[str, Annotated]:
        """Return the objects with masks of a COCO annotation file."""
        return read_annotations(
            *(path, spec.labels, "segmentation", of_coco, self._num_classes(spec), key_of)
        )

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

    def _has_logits(self, shapes: Mapping[str, tuple[int | str, ...]]) -> bool:
        return False

    def _check_classes(self, spec: ModelSpec) -> None:
        """Objects may be of one class, and of several by sigmoid."""

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the segments above the model's threshold, made when they are asked for."""
        return SegmentsPrediction(image, spec, outputs, size, top, is_panoptic=self.is_panoptic)

    def _find(
        self, spec: ModelSpec, outputs: Outputs, size: Size, preprocess: PreprocessSpec | None
    ) -> Iterable[Segment]:
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
        return self._each(spec, outputs, lambda own: list(self._find(spec, own, size, None)))

    def found(self, spec: ModelSpec, outputs: Outputs, row: int) -> Sequence[Segment]:
        """Return the segments of one row in the pixels of the model's input."""
        return self._every(spec, outputs)[row]

    def facts(self, objects: Sequence[Segment]) -> tuple[IntArray, Float64Array]:
        """Return the classes and the scores of segments."""
        classes, scores = ([getattr(o, of) for o in objects] for of in ("index", "score"))
        return np.array(classes, np.int64), np.array(scores, np.float64)

    def overlaps(self, reference: Sequence[Segment], candidate: Sequence[Segment]) -> Float64Array:
        """Return the IoU of each two segments."""
        if not reference or not candidate:
            return np.zeros((len(reference), len(candidate)))
        ours, theirs = (
            np.stack([each.mask.reshape(-1) for each in side]).astype(np.float32)
            for side in (reference, candidate)
        )
        shared = (ours @ theirs.T).astype(np.float64)
        found: Float64Array = shared / (ours.sum(axis=1)[:, None] + theirs.sum(axis=1) - shared)
        return found

    def _numbered_at(
        self, spec: ModelSpec, outputs: Outputs, row: int, size: Size
    ) -> tuple[ClassMap, IntArray]:
        return once(  # of a batch these are kept, and no masks
            *(outputs, (self.name, spec, row, size)),
            lambda: numbered(self._find(spec, row_of(outputs, row), size, spec.preprocess), size),
        )

    def _class_map_at(self, spec: ModelSpec, outputs: Outputs, row: int, size: Size) -> ClassMap:
        return by_class(*self._numbered_at(spec, outputs, row, size))

    def _shown(self, spec: ModelSpec, picture: Any, own: Outputs) -> Any:
        segments = list(self._find(spec, own, (picture.height, picture.width), None))
        return draw_segments(picture, segments, spec, is_named=False)


class PanopticSegmentation(InstanceSegmentation):
    """Objects and regions, each pixel in one at most."""

    name = "panoptic_segmentation"
    is_panoptic = True

    def _judged(self) -> tuple[Measure, ...]:
        return quality_measures(self._numbered_at)

    def read_annotations(
        self, spec: ModelSpec, path: Path, key_of: KeyOf
    ) -> Mapping[str, Annotated]:
        """Return the segments of a COCO panoptic annotation file."""
        return Segmentation.read_annotations(self, spec, path, key_of)
