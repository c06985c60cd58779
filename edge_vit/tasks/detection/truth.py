"""What is true of an image: the boxes of COCO annotations and of YOLO text files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.errors import ArtifactError, ImageError, SpecError
from edge_vit.tasks.detection.boxes import corners
from edge_vit.tasks.numerics import BoolArray, Float64Array, IntArray


@dataclass(frozen=True, eq=False)
class Objects:
    """The true objects in one image.

    Attributes:
        size: (height, width) of the image; (0, 0) where that is not written.
        boxes: corners in its pixels, (N, 4).
        classes: class index of each, (N,).
        areas: in pixels, (N,): of the object's outline where it is known, else of its box.
        crowds: whether a box stands for a crowd, which is neither found nor missed, (N,).
    """

    size: tuple[int, int]
    boxes: Float64Array
    classes: IntArray
    areas: Float64Array
    crowds: BoolArray


def read_coco(
    path: Path,
    labels: Sequence[str],
    num_classes: int | None = None,
    key_of: Callable[[str], str] = str,
) -> dict[str, Objects]:
    """Return the objects of each image in a COCO annotation file, by the image's file name.

    Categories are matched with the model's labels by name, those that no annotation has left
    aside. Where no name is a label's, and for a model without labels, the category's id is the
    class index.

    Args:
        path: of the JSON file.
        labels: of the model, by class index.
        num_classes: of the model, where it is known.
        key_of: what tells two names apart.

    Raises:
        ArtifactError: the file cannot be read, or is no COCO annotation file.
        SpecError: categories are none of the model's classes.
    """
    try:
        data = json.loads(path.read_bytes())
        images = {image["id"]: image for image in data["images"]}
        categories = {each["id"]: str(each["name"]) for each in data["categories"]}
        rows: dict[int, list[Mapping[str, Any]]] = {number: [] for number in images}
        used = dict[int, str]()
        for place, entry in enumerate(data["annotations"]):
            number, category = entry["image_id"], entry["category_id"]
            for kind, wanted, known in (
                ("image_id", number, rows),
                ("category_id", category, categories),
            ):
                if wanted not in known:
                    raise ArtifactError(
                        f"{path}: annotation {entry.get('id', place)} has {kind} {wanted}, which "
                        "the file does not list. Take it out, or add what it belongs to"
                    )
            rows[number].append(entry)
            used[category] = categories[category]
        classes = match_classes(path, used, labels, num_classes, key_of)
        return {
            str(images[number]["file_name"]): _from_coco(images[number], entries, classes)
            for number, entries in rows.items()
        }
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is no COCO annotation file ({type(error).__name__}: {error}), expected JSON "
            "with images, categories and annotations"
        ) from None


def match_classes(
    path: Path,
    categories: Mapping[int, str],
    labels: Sequence[str],
    num_classes: int | None,
    key_of: Callable[[str], str],
) -> dict[int, int]:
    """Return the class index of each of the `categories`, names by number, in the file at `path`.

    `labels`, `num_classes` and `key_of` are those of `read_coco`.
    """
    index = {key_of(label): number for number, label in reversed([*enumerate(labels)])}
    named = {n: index[key_of(name)] for n, name in categories.items() if key_of(name) in index}
    if len(named) == len(categories):
        return named
    if named:
        other = next(name for name in categories.values() if key_of(name) not in index)
        raise SpecError(
            f"{path}: category {other!r} is none of the model's classes. Give the model's names "
            "with --labels when it is exported, or take the category out of the file"
        )
    count = num_classes or len(labels)
    if count and max(categories, default=0) >= count:
        raise SpecError(
            f"{path}: got category id {max(categories)}, but the model has {count} classes "
            "and none of the file's names. Name its classes with --labels when it is exported"
        )
    return {number: number for number in categories}


def _from_coco(
    image: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], classes: Mapping[int, int]
) -> Objects:
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    areas = [entry.get("area", entry["bbox"][2] * entry["bbox"][3]) for entry in entries]
    return Objects(
        (int(image.get("height") or 0), int(image.get("width") or 0)),
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        np.array([classes[entry["category_id"]] for entry in entries], np.int64),
        np.array(areas, np.float64),
        np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool),
    )


def read_yolo(path: Path, size: tuple[int, int], num_classes: int | None = None) -> Objects:
    """Return the objects of a YOLO text file: lines ``class cx cy w h``, shares of the image.

    Args:
        path: of the text file; a file that is not there means that the image shows no object.
        size: (height, width) of the image.
        num_classes: of the model.

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
