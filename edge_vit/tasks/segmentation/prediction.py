"""What a segmentation model sees in one image, decoded when it is asked for."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_vit.optional import require
from edge_vit.spec import ModelSpec
from edge_vit.tasks.numerics import FloatArray
from edge_vit.tasks.prediction import ClassScore, Prediction
from edge_vit.tasks.segmentation.decoding import (
    NOTHING,
    ClassMap,
    Segment,
    instances,
    numbered,
    painted,
    panoptic,
    semantic_map,
)

IGNORED = 255
"""The level in a mask file of a pixel that shows no class, and in one of the truth of one that does
not count."""
IGNORED_WIDE = 65535
"""The same in a file of 16 bits."""

_SHOWN = 3  # classes in a headline
_LEAST = 0.05  # share of the pixels from which a class makes two predictions differ
_PIXEL_DIGITS, _SHARE_DIGITS = 2, 6


@dataclass(frozen=True, eq=False)
class MaskPrediction(Prediction):
    """The class of each pixel.

    Attributes:
        spec: of the model.
        outputs: of the image, on the model's own grid.
        size: (height, width) of the image in pixels.
        least: classes and segments below this score are left out.
        most: of them that are listed.
    """

    spec: ModelSpec = field(repr=False)
    outputs: Mapping[str, FloatArray] = field(repr=False)
    size: tuple[int, int]
    most: int = 100
    least: float = 0.0

    @functools.cached_property
    def classes(self) -> ClassMap:
        """The class of each pixel, int32 (height, width), -1 for none."""
        return self.classes_at(self.size)

    def classes_at(self, size: tuple[int, int]) -> ClassMap:
        """Return the class of each pixel of the same image at another (height, width)."""
        return semantic_map(self.spec, self.outputs, size, self.spec.preprocess)

    @functools.cached_property
    def shares(self) -> tuple[tuple[int, float], ...]:
        """Class and share of the pixels of each class that is there, the largest first."""
        counts = np.bincount(self.classes[self.classes != NOTHING], minlength=1)
        order = np.argsort(-counts, kind="stable")
        shares = (counts / self.classes.size).tolist()
        return tuple((int(i), shares[i]) for i in order if counts[i] and shares[i] >= self.least)

    @property
    def key(self) -> object:
        """The classes that cover a good part of the image."""
        return frozenset(index for index, share in self.shares if share >= _LEAST)

    @property
    def names(self) -> tuple[ClassScore, ...]:
        """Each class with its share of the pixels."""
        return tuple(ClassScore(i, self.spec.label(i), share) for i, share in self.shares)[
            : self.most
        ]

    @property
    def headline(self) -> str | None:
        """The largest classes with their share of the pixels."""
        named = [f"{each.label} {each.score:.0%}" for each in self.names[:_SHOWN]]
        return ", ".join(named) or "no class"

    def at_least(self, share: float) -> Prediction:
        """Return the classes that cover at least `share` of the pixels."""
        return type(self)(self.image, self.spec, self.outputs, self.size, self.most, share)

    def entries(self) -> list[dict[str, Any]]:
        """Return the classes, the largest first: `index`, `label`, and `share` of the pixels."""
        return [
            {"index": each.index, "label": each.label, "share": round(each.score, _SHARE_DIGITS)}
            for each in self.names
        ]

    def cells(self) -> list[tuple[str, ...]]:
        """Return class, index and share of the pixels of each."""
        return [(e.label, str(e.index), f"{100 * e.score:.2f} %") for e in self.names]

    def draw(self, picture: Any) -> Any:
        """Return `picture` with the colour of each class over it, and their names."""
        from edge_vit.tasks.segmentation.drawing import draw_classes

        return draw_classes(picture, self.classes_at((picture.height, picture.width)), self.spec)

    def files(self) -> Mapping[str, bytes]:
        """Return the mask as a PNG of class indices with a palette."""
        return {"mask.png": mask_png(self.classes)}

    def to_supervision(self) -> Any:
        """Return one mask a class as `supervision.Detections`.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        shown = [index for index, _ in self.shares][: self.most]
        masks = [self.classes == index for index in shown]
        return _detections(masks, shown, [self.spec.label(i) for i in shown], None, self.size)


@dataclass(frozen=True, eq=False)
class SegmentsPrediction(MaskPrediction):
    """Objects, and in a panoptic model regions too: a class, a score and a mask each."""

    is_panoptic: bool = False

    @functools.cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The segments in the image's pixels, best first."""
        return tuple(self.segments_at(self.size))

    def segments_at(self, size: tuple[int, int]) -> Sequence[Segment]:
        """Return the segments of the same image at another (height, width)."""
        decode = panoptic if self.is_panoptic else instances
        found = decode(self.spec, self.outputs, size, self.spec.preprocess)
        return [each for each in found if each.score >= self.least][: self.most]

    def classes_at(self, size: tuple[int, int]) -> ClassMap:
        """Return the class of the best segment at each pixel."""
        return painted(self.segments_at(size), size)

    @property
    def confidence(self) -> float | None:
        """Score of the best segment."""
        return self.segments[0].score if self.segments else None

    @property
    def key(self) -> object:
        """The classes of the segments, each as often as it is there."""
        return tuple(sorted(each.index for each in self.segments))

    @property
    def names(self) -> tuple[ClassScore, ...]:
        """Class and score of each segment."""
        return tuple(ClassScore(s.index, self.spec.label(s.index), s.score) for s in self.segments)

    @property
    def headline(self) -> str | None:
        """How many segments of which classes."""
        counts: dict[str, int] = {}
        for each in self.names:
            counts[each.label] = counts.get(each.label, 0) + 1
        named = sorted(counts.items(), key=lambda item: -item[1])[:_SHOWN]
        return ", ".join(f"{count} × {label}" for label, count in named) or "no segment"

    def at_least(self, share: float) -> Prediction:
        """Return the segments whose score is at least `share`."""
        first = (self.image, self.spec, self.outputs, self.size, self.most, share)
        return type(self)(*first, self.is_panoptic)

    def entries(self) -> list[dict[str, Any]]:
        """Return the segments, best first: `index`, `label`, `score`, `box` and `share`."""
        return [
            {
                "index": each.index,
                "label": self.spec.label(each.index),
                "score": each.score,
                "box": box_of(each),
                "share": round(float(each.mask.mean()), _SHARE_DIGITS),
            }
            for each in self.segments
        ]

    def cells(self) -> list[tuple[str, ...]]:
        """Return class, index, score, corners and share of the pixels; one row for none."""
        if not self.segments:
            return [("no segment", "", "–", "", "")]
        return [
            (
                entry["label"],
                str(entry["index"]),
                f"{100 * entry['score']:.2f} %",
                " ".join(f"{value:.0f}" for value in entry["box"]),
                f"{100 * entry['share']:.2f} %",
            )
            for entry in self.entries()
        ]

    def draw(self, picture: Any) -> Any:
        """Return `picture` with each segment's colour over it, and its name and score."""
        from edge_vit.tasks.segmentation.drawing import draw_segments

        return draw_segments(picture, self.segments_at((picture.height, picture.width)), self.spec)

    def files(self) -> Mapping[str, bytes]:
        """Return masks of classes, and of the segments by their place in the list from 1."""
        numbers, _ = numbered(self.segments, self.size)
        return {**super().files(), "segments.png": mask_png(numbers)}

    def to_supervision(self) -> Any:
        """Return the segments as `supervision.Detections`, masks included.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        found = self.segments
        return _detections(
            [each.mask for each in found],
            [each.index for each in found],
            [self.spec.label(each.index) for each in found],
            [each.score for each in found],
            self.size,
        )


def box_of(segment: Segment) -> list[float]:
    """Return the corners (x1, y1, x2, y2) around a segment's pixels, from outer edge to edge."""
    rows, columns = (np.flatnonzero(segment.mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def mask_png(classes: ClassMap) -> bytes:
    """Return a PNG of levels with a palette, `IGNORED` for none; 16 bits where 8 are too few."""
    from PIL import Image

    from edge_vit.tasks.segmentation.drawing import PALETTE

    buffer = io.BytesIO()
    is_wide = classes.max(initial=0) >= IGNORED
    none = IGNORED_WIDE if is_wide else IGNORED
    levels = np.where(classes == NOTHING, none, classes)
    picture = Image.fromarray(levels.astype(np.uint16 if is_wide else np.uint8))
    if not is_wide:
        picture.putpalette(PALETTE.reshape(-1).tolist())
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _detections(
    masks: Sequence[Any],
    classes: Sequence[int],
    labels: Sequence[str],
    scores: Sequence[float] | None,
    size: tuple[int, int],
) -> Any:
    supervision = require("supervision", "supervision.Detections")
    boxes = [box_of(Segment(0, 0.0, mask)) for mask in masks]
    return supervision.Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        mask=np.array(masks, bool).reshape(-1, *size),
        confidence=None if scores is None else np.array(scores, np.float32),
        class_id=np.array(classes, int),
        data={"class_name": np.array(labels, str)},
    )
