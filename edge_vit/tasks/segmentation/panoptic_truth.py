"""True segments of every pixel: the PNG files of a COCO panoptic annotation file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_vit.errors import ArtifactError, ImageError
from edge_vit.tasks.coco import Annotated, Categories, Entry, KeyOf, read_annotations, size_of
from edge_vit.tasks.numerics import IntArray
from edge_vit.tasks.segmentation.decoding import NOTHING, ClassMap
from edge_vit.tasks.segmentation.truth import TrueMask, read_levels


@dataclass(frozen=True, eq=False)
class TrueSegments(TrueMask):
    """The true segments of one image, beside the class of each pixel.

    Attributes:
        numbers: of each pixel's segment, from 1; 0 where none is known, int32 (height, width).
        indices: class of each segment, (segments,).
        crowds: whether a segment stands for several things, (segments,).
        things: the classes of single things; the others are regions. None where it is not known.
    """

    numbers: ClassMap
    indices: IntArray
    crowds: Sequence[bool]
    things: frozenset[int] | None


def read_panoptic(
    path: Path, labels: Sequence[str], num_classes: int, key_of: KeyOf
) -> dict[str, Annotated]:
    """Return the segments of each image in a COCO panoptic annotation file, by image file name.

    The PNG files, whose pixels are R + 256 G + 65536 B, lie in the folder that is called as the
    file. A damaged one raises ImageError when it is read; else errors are as of `read_annotations`.
    """
    folder = path.with_suffix("")

    def make(image: Entry, entries: Sequence[Entry], categories: Categories) -> Annotated:
        # without an entry, as without a file, the image counts as a bad one
        names = sorted({entry["file_name"] for entry in entries})
        if len(names) > 1:
            raise ArtifactError(
                f"{path}: image {image['file_name']} has segments in {' and '.join(names)}, "
                "expected one PNG file of each image. Take the others out"
            )
        name = names[0] if names else f"{Path(image['file_name']).stem}.png"
        infos = [info for entry in entries for info in entry["segments_info"]]
        ids = [int(each["id"]) for each in infos]
        indices = np.array([categories.classes[each["category_id"]] for each in infos], np.int64)
        crowds = [bool(each.get("iscrowd", 0)) for each in infos]

        def read(size: tuple[int, int]) -> TrueSegments:
            numbers = _read_numbers(folder / name, size, ids)
            classes = np.append(NOTHING, indices).astype(np.int32)[numbers]
            ignored = classes == NOTHING
            return TrueSegments(classes, ignored, numbers, indices, crowds, categories.things)

        return Annotated(size_of(image), read)

    found = read_annotations(path, labels, "segments_info", make, num_classes, key_of)
    if found and not folder.is_dir():
        raise ImageError(
            f"{path} is a COCO panoptic file, whose PNG files were expected in {folder}. Put their "
            "folder, or a link to it, there"
        )
    return found


def _read_numbers(path: Path, size: tuple[int, int], ids: Sequence[int]) -> ClassMap:
    """Return the place from 1 in `ids` of each pixel's segment, 0 for the id 0."""
    levels, mode = read_levels(path, size)
    if levels.ndim != 3 or levels.shape[2] < 3 or levels.dtype != np.uint8:
        raise ImageError(
            f"mask {path}: got a picture in {mode}, expected a PNG in RGB of segments' numbers, "
            "R + 256 G + 65536 B"
        )
    shown, places = np.unique(
        levels[..., :3].astype(np.int64) @ [1, 256, 65536], return_inverse=True
    )
    unlike = sorted((set(shown.tolist()) - {0}) ^ set(ids))
    if unlike:
        one, other = ("file", "picture") if unlike[0] in ids else ("picture", "file")
        raise ImageError(
            f"mask {path}: segment {unlike[0]} of the annotation {one} is not in the {other}. Take "
            "the pictures of this file"
        )
    known = [[0, *ids].index(number) for number in shown.tolist()]
    return np.array(known, np.int32)[places.reshape(size)]
