"""What is true of an image: the boxes of COCO annotations and of YOLO text files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_vit.errors import ImageError
from edge_vit.tasks.coco import Annotated, Categories, Entry, size_of
from edge_vit.tasks.detection.boxes import corners
from edge_vit.tasks.numerics import BoolArray, Float64Array, IntArray


@dataclass(frozen=True, eq=False)
class Objects:
    """The true objects in one image."""

    size: tuple[int, int]  # (height, width) of the image
    boxes: Float64Array  # corners in its pixels, (N, 4)
    classes: IntArray  # class index of each, (N,)
    areas: Float64Array  # in pixels, (N,): of the outline where it is known, else of the box
    crowds: BoolArray  # whether a box stands for a crowd, neither found nor missed, (N,)


def of_coco(image: Entry, entries: Sequence[Entry], categories: Categories) -> Annotated:
    """Return the boxes that a COCO annotation file has of one image."""
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    areas = [entry.get("area", entry["bbox"][2] * entry["bbox"][3]) for entry in entries]
    facts = (
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        np.array([categories.classes[entry["category_id"]] for entry in entries], np.int64),
        np.array(areas, np.float64),
        np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool),
    )
    return Annotated(size_of(image), lambda size: Objects(size, *facts))


def read_yolo(path: Path, size: tuple[int, int], num_classes: int | None = None) -> Objects:
    """Return the objects of a YOLO text file: lines ``class cx cy w h``, shares of the image.

    A file that is not there means that the image shows no object.

    Raises:
        ImageError: a line is something else; the message names it.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            rows.append(_read_line(f"{path}:{number}", line.split(), num_classes))
    values = np.array(rows, np.float64).reshape(-1, 5)
    boxes = corners(values[:, 1:]) * ([size[1], size[0]] * 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Objects(
        size, boxes, values[:, 0].astype(np.int64), sides.prod(axis=1), np.zeros(len(boxes), bool)
    )


def _read_line(where: str, words: Sequence[str], num_classes: int | None) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    is_box = len(values) == 5 and values[0] == int(values[0]) >= 0
    if not is_box or not all(0 <= value <= 1 for value in values[1:]):
        raise ImageError(
            f"{where}: got {' '.join(words)[:60]!r}, expected: class cx cy w h, the last four from "
            "0 to 1"
        )
    if num_classes is not None and values[0] >= num_classes:
        raise ImageError(
            f"{where}: got class {int(values[0])}, but the model has {num_classes} classes"
        )
    return values
