"""COCO annotation files: the images that they list, with what reads the truth of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_vit.errors import ArtifactError, SpecError

Entry = Mapping[str, Any]  # an image or an annotation, as the file has it

_WHAT = {
    "segments_info": "panoptic segments, with their PNG files",
    "segmentation": "objects with masks",
    "bbox": "boxes",
}
"""What annotations are of, by the first of the keys that they have."""


class Annotated(NamedTuple):
    """What a file says of an image: its (height, width), and what reads its truth.

    The size is (0, 0) where it is not written; the function is given the image's own, and raises
    ImageError where the truth is damaged.
    """

    size: tuple[int, int]
    read: Callable[[tuple[int, int]], Any]


class Categories(NamedTuple):
    """Class index of each category id, and those of single things, None where not known."""

    classes: Mapping[int, int]
    things: frozenset[int] | None


Make = Callable[[Entry, Sequence[Entry], Categories], Annotated]
"""(image, its annotations, categories) -> what the file says of it."""


KeyOf = Callable[[str], str]  # what tells two names of classes apart


def read_annotations(
    path: Path,
    labels: Sequence[str],
    key: str,
    make: Make,
    num_classes: int | None = None,
    key_of: KeyOf = str,
) -> dict[str, Annotated]:
    """Return what `make` finds in a COCO annotation file, by each image's file name.

    Every annotation has to have the `key`, such as ``bbox``. Categories are matched with the
    model's `labels` by name, those that no annotation has left aside. Where no name is a label's,
    and for a model without labels, the category's id is the class index, below `num_classes`.

    Raises:
        ArtifactError: the file cannot be read, or is no COCO annotation file.
        SpecError: annotations are of something else, or categories are none of the model's classes.
    """
    with _refused(path):
        data = json.loads(path.read_bytes())
        images = {image["id"]: image for image in data["images"]}
        categories = {each["id"]: each for each in data["categories"]}
        rows: dict[int, list[Entry]] = {number: [] for number in images}
        used = dict[int, str]()
        for place, entry in enumerate(data["annotations"]):
            name = f"{path}: annotation {entry.get('id', place)}"
            numbers = [part["category_id"] for part in entry.get("segments_info", [entry])]
            _refuse_unlisted(name, "image_id", entry["image_id"], images)
            for number in numbers:
                _refuse_unlisted(name, "category_id", number, categories)
                used[number] = str(categories[number]["name"])
            if key not in entry:
                got = next((what for other, what in _WHAT.items() if other in entry), "others")
                raise SpecError(
                    f"{name}: got {got}, expected {_WHAT[key]}: it has no {key!r}. Take the "
                    "annotation file of the model's task"
                )
            rows[entry["image_id"]].append(entry)
        classes = match_classes(path, used, labels, num_classes, key_of)
        is_thing = {classes[number]: categories[number].get("isthing") for number in used}
        things = frozenset(index for index, yes in is_thing.items() if yes)
        known = Categories(classes, None if None in is_thing.values() else things)
        return {
            str(images[number]["file_name"]): make(images[number], entries, known)
            for number, entries in rows.items()
        }


def read_names(path: Path) -> list[str]:
    """Return the file names of the images that a COCO annotation file lists."""
    with _refused(path):
        return [str(image["file_name"]) for image in json.loads(path.read_bytes())["images"]]


def size_of(image: Entry) -> tuple[int, int]:
    """Return the (height, width) that a file says of an image, (0, 0) where it does not."""
    return int(image.get("height") or 0), int(image.get("width") or 0)


def _refuse_unlisted(name: str, kind: str, number: Any, known: Container[Any]) -> None:
    if number not in known:
        raise ArtifactError(
            f"{name} has {kind} {number}, which the file does not list. Take it out, or add what "
            "it belongs to"
        )


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
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
    key_of: KeyOf,
) -> dict[int, int]:
    """Return the class index of each of the `categories`, names by number, in the file at `path`.

    `labels`, `num_classes` and `key_of` are those of `read_annotations`.
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
