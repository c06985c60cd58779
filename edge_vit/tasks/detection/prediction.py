"""The boxes found in one image, and the forms that other tools take them in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_vit.optional import require
from edge_vit.tasks.prediction import ClassScore, Prediction

_SHOWN = 3  # classes in a headline
_DIGITS = 2  # of a pixel in tables and sinks


@dataclass(frozen=True)
class Box:
    """One object: class, score from 0 to 1, and corners (x1, y1, x2, y2) in the image's pixels."""

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class DetectionPrediction(Prediction):
    """Objects in an image."""

    boxes: tuple[Box, ...]  # best first

    @property
    def key(self) -> object:
        """How many objects of each class there are."""
        return tuple(sorted(Counter(box.index for box in self.boxes).items()))

    @property
    def confidence(self) -> float | None:
        """Score of the best box."""
        return self.boxes[0].score if self.boxes else None

    @property
    def names(self) -> tuple[ClassScore, ...]:
        """Class and score of each box."""
        return tuple(ClassScore(box.index, box.label, box.score) for box in self.boxes)

    @property
    def headline(self) -> str | None:
        """How many objects of which classes, three classes at most."""
        counts = Counter(box.label for box in self.boxes).most_common()
        more = f" and {len(counts) - _SHOWN} more classes" if len(counts) > _SHOWN else ""
        named = ", ".join(f"{count} × {label}" for label, count in counts[:_SHOWN])
        return f"{named}{more}" if named else "no object"

    def entries(self) -> list[dict[str, Any]]:
        """Return the boxes, best first: `index`, `label`, `score`, `box`."""
        return [{**vars(box), "box": list(box.box)} for box in self.boxes]

    def record(self) -> dict[str, Any]:
        """Return the boxes with corners to a hundredth of a pixel."""
        found = super().record()
        for entry in found["answers"]:
            entry["box"] = [round(value, _DIGITS) for value in entry["box"]]
        return found

    def draw(self, picture: Any) -> Any:
        """Return `picture` with the boxes on it."""
        from edge_vit.tasks.detection.drawing import draw_boxes

        return draw_boxes(picture, self.boxes)

    def cells(self) -> list[tuple[str, ...]]:
        """Return class, index, score and corners of each box; one row where there is none."""
        if not self.boxes:
            return [("no object", "", "–", "")]
        return [
            (
                box.label,
                str(box.index),
                f"{100 * box.score:.2f} %",
                " ".join(f"{value:.1f}" for value in box.box),
            )
            for box in self.boxes
        ]

    def to_coco(self, image_id: int) -> list[Any]:
        """Return the boxes as entries of a COCO results file, their class index as category."""
        return [
            {
                "image_id": image_id,
                "category_id": box.index,
                "bbox": [box.box[0], box.box[1], box.box[2] - box.box[0], box.box[3] - box.box[1]],
                "score": box.score,
            }
            for box in self.boxes
        ]

    def to_supervision(self) -> Any:
        """Return the boxes as `supervision.Detections`.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        supervision = require("supervision", "supervision.Detections")
        return supervision.Detections(
            xyxy=np.array([box.box for box in self.boxes], np.float32).reshape(-1, 4),
            confidence=np.array([box.score for box in self.boxes], np.float32),
            class_id=np.array([box.index for box in self.boxes], int),
            data={"class_name": np.array([box.label for box in self.boxes], str)},
        )
