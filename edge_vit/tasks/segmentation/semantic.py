"""The task of a class for each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, ModelSpec, PreprocessSpec, TensorSpec
from edge_vit.tasks.base import Outputs, Size, Task, Wording
from edge_vit.tasks.coco import Annotated, KeyOf
from edge_vit.tasks.detection.matching import align
from edge_vit.tasks.maps.pictures import beside
from edge_vit.tasks.memo import once
from edge_vit.tasks.numerics import Float64Array, FloatArray, relative_rms
from edge_vit.tasks.prediction import Prediction
from edge_vit.tasks.segmentation.decoding import (
    CLASSES,
    LOGITS,
    MASKS,
    ClassMap,
    mask_distances,
    semantic_map,
)
from edge_vit.tasks.segmentation.drawing import draw_classes, paint
from edge_vit.tasks.segmentation.measures import DROP, LOST, measures_of
from edge_vit.tasks.segmentation.panoptic_truth import read_panoptic
from edge_vit.tasks.segmentation.prediction import MaskPrediction
from edge_vit.tasks.segmentation.truth import TrueMask, describe, read_mask

MIN_AGREEMENT = 0.98
"""Least share of equal pixels in two masks that count as the same prediction."""
MIN_ROUGH_AGREEMENT = 0.9
"""The same where a precision is compared in the field."""

PICTURES = (
    "Left the reference's mask over the image, right this precision's, the pixels of another class "
    "in white."
)
FROM_ONE = "annotations"
"""Name of the folder of masks in which level 0 stands for no class, as in ADE20K."""

T = TypeVar("T")


class Segmentation(Task):
    """The class of each pixel, of logits on a grid or of queries with masks."""

    name = "segmentation"
    wording = Wording(
        subject="The mask",
        agreement=f"Same answer: at least {MIN_AGREEMENT:.0%} of the pixels are of the same class.",
        divergence="other pixels {}",
        pictures=PICTURES,
    )
    columns: tuple[str, ...] = ("class", "index", "share of the pixels")
    default_activation: Activation = "softmax"
    gives_probabilities = True
    gives_map = True
    is_drawn = True
    has_direction = False
    disagreement_is_loss = True
    default_top = 100
    most_apart = 1 - MIN_AGREEMENT
    most_roughly_apart: float | None = 1 - MIN_ROUGH_AGREEMENT
    loss_measure = DROP
    unlabelled_loss = LOST
    truth_folders = ("masks", FROM_ONE, "gtFine", "ann_dir")
    truth_suffixes = (".png", "_gtFine_labelTrainIds.png")

    def __init__(self) -> None:
        self.measures = self._measures()

    def _measures(self) -> tuple[Any, ...]:
        return measures_of(self._class_maps, self._class_map_at)

    # What a model of the task is.

    def outputs(
        self, size: int, batch: int | None = None, activation: Activation | None = None
    ) -> tuple[TensorSpec, ...]:
        """Return logits (batch, size, rows, columns)."""
        shape = (batch or "batch", size, "rows", "columns")
        return (TensorSpec(LOGITS, "float32", shape),)

    def output_name(self, activation: Activation | None = None) -> str:
        """Return ``logits``."""
        return LOGITS

    def width_of(self, shape: tuple[int | str, ...]) -> int | str:
        """Return the number of classes: of queries, the last column stands for none of them."""
        if len(shape) == 4:
            return shape[1]
        return shape[-1] - 1 if isinstance(shape[-1], int) else shape[-1]

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model whose outputs are neither logits of each class nor queries with masks."""
        shapes = {output.name: output.shape for output in spec.outputs}
        if not self._has_logits(shapes) and not _has_masks(shapes):
            got = ", ".join(f"{output.name} {output}" for output in spec.outputs)
            raise SpecError(f"outputs of {spec.name}: got {got}, expected {self._wanted}")
        self._check_classes(spec)
        super().check(spec)

    def _check_classes(self, spec: ModelSpec) -> None:
        """Refuse one class, which every pixel would be of, and queries that softmax is not for."""
        has_queries = spec.outputs[0].name == CLASSES
        if self.width_of(spec.outputs[0].shape) == 1:
            other = "instance_segmentation" if has_queries else "dense, for its values"
            raise SpecError(
                f"output of {spec.name}: got one class, which each pixel would be of, expected at "
                f"least two. Take --task {other}"
            )
        if has_queries and spec.activation != "softmax":
            raise SpecError(
                f"activation of {spec.name}: got {spec.activation}, expected softmax, in which the "
                "last class of a query is none of them"
            )

    _wanted = (
        "logits (batch, classes, rows, columns), or class_logits (batch, queries, classes) and "
        "mask_logits (batch, queries, rows, columns)"
    )

    def _has_logits(self, shapes: Mapping[str, tuple[int | str, ...]]) -> bool:
        return list(shapes) == [LOGITS] and len(shapes[LOGITS]) == 4

    def read_truth(self, spec: ModelSpec, path: Path, size: Size) -> TrueMask:
        """Return the mask in a file of class indices; below `FROM_ONE` they begin with 1."""
        return read_mask(path, size, self._num_classes(spec), self._offset(path))

    def read_annotations(
        self, spec: ModelSpec, path: Path, key_of: KeyOf
    ) -> Mapping[str, Annotated]:
        """Return the segments of a COCO panoptic annotation file, whose classes count here."""
        return read_panoptic(path, spec.labels, self._num_classes(spec), key_of)

    def _num_classes(self, spec: ModelSpec) -> int:
        return self.num_labels(spec.num_outputs, spec.activation)

    def describe_truth(self, paths: Sequence[Path]) -> str:
        """Return how masks are read where that may be wrong."""
        return describe(paths, self._offset(paths[0]))

    def _offset(self, path: Path) -> int:
        """Return what a level in the file at `path` is above its class."""
        folders = [part for part in path.parts if part in self.truth_folders]
        return int(folders[-1:] == [FROM_ONE])

    # What outputs stand for.

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the mask in the pixels of `size`, made when it is asked for."""
        return MaskPrediction(image, spec, outputs, size, top)

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return the share of the pixels whose classes differ."""
        pairs = zip(
            self._class_maps(spec, reference), self._class_maps(spec, candidate), strict=True
        )
        return np.array([float((a != b).mean()) for a, b in pairs])

    def aligned(
        self, spec: ModelSpec, reference: Outputs, candidate: Outputs
    ) -> tuple[Outputs, Outputs]:
        """Return both as they are; of queries, with the visible ones paired and the rest zero."""
        if MASKS not in reference:
            return reference, candidate
        return align(spec, reference, candidate, lambda a, b: mask_distances(a[MASKS], b[MASKS]))

    def deviation(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> float:
        """Return the error of all rows over the spread of the classes in each cell."""
        ours, theirs = self.aligned(spec, reference, candidate)
        return max(
            relative_rms(_by_cell(ours[o.name]), _by_cell(theirs[o.name]), over_images=False)
            for o in spec.outputs
        )

    def overlay(self, spec: ModelSpec, picture: Any, reference: Outputs, candidate: Outputs) -> Any:
        """Return `picture` with the mask of the reference, and beside it with the candidate's.

        In the second one the pixels whose class differs are white.
        """
        size = (picture.height, picture.width)
        ours, theirs = (row_of(each, 0) for each in (reference, candidate))
        differs = self._decode(spec, ours, size, None) != self._decode(spec, theirs, size, None)
        first, second = (self._shown(spec, picture, each) for each in (ours, theirs))
        return beside([first, paint(second, differs)])

    def _shown(self, spec: ModelSpec, picture: Any, own: Outputs) -> Any:
        classes = self._decode(spec, own, (picture.height, picture.width), None)
        return draw_classes(picture, classes, spec, is_named=False)

    def _decode(
        self, spec: ModelSpec, outputs: Outputs, size: Size, preprocess: PreprocessSpec | None
    ) -> ClassMap:
        return semantic_map(spec, outputs, size, preprocess)

    def _class_maps(self, spec: ModelSpec, outputs: Outputs) -> Sequence[ClassMap]:
        """Return the classes of each row in the pixels of the model's input."""
        size = spec.preprocess.image_size
        return self._each(spec, outputs, lambda own: self._decode(spec, own, size, None))

    def _class_map_at(self, spec: ModelSpec, outputs: Outputs, row: int, size: Size) -> ClassMap:
        return self._decode(spec, row_of(outputs, row), size, spec.preprocess)

    def _each(self, spec: ModelSpec, outputs: Outputs, make: Callable[[Outputs], T]) -> list[T]:
        """Return what `make` gives for each row: what most measures of this task begin with."""
        count = len(outputs[spec.outputs[0].name])
        return once(
            *(outputs, (self.name, spec)),
            lambda: [make(row_of(outputs, row)) for row in range(count)],
        )


def _has_masks(shapes: Mapping[str, tuple[int | str, ...]]) -> bool:
    """Return whether the outputs are classes and masks of as many queries."""
    classes, masks = shapes.get(CLASSES, ()), shapes.get(MASKS, ())
    return (
        list(shapes)[:2] == [CLASSES, MASKS]
        and len(classes) == 3
        and len(masks) == 4
        and classes[1] == masks[1]
    )


def row_of(outputs: Outputs, row: int) -> Outputs:
    """Return the outputs of one image, without the batch axis."""
    return {name: rows[row] for name, rows in outputs.items()}


def _by_cell(values: FloatArray) -> FloatArray:
    """Return logits (rows, classes, height, width) as (cells, classes); masks as (queries, …)."""
    values = np.asarray(values)
    if values.ndim == 4:
        return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return values.reshape(-1, values.shape[-1])
