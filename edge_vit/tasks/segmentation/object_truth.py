"""True objects with masks: polygons and run lengths of COCO annotations."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_vit.errors import ImageError
from edge_vit.tasks.coco import Annotated, Categories, Entry, size_of
from edge_vit.tasks.detection.average_precision import mask_tools
from edge_vit.tasks.numerics import BoolArray

_FARTHEST = 100  # sides of the image that a corner may be away; COCO's tools walk all the way

Rle = Mapping[str, Any]
"""A mask in run lengths, as COCO's tools have it."""


class TrueObjects(NamedTuple):
    """The true objects in one image: mask, class and area of each, and whether it is a crowd."""

    size: tuple[int, int]
    masks: Sequence[Rle]
    classes: Sequence[int]
    areas: Sequence[float]
    crowds: Sequence[bool]


def of_coco(image: Entry, entries: Sequence[Entry], categories: Categories) -> Annotated:
    """Return the objects that a COCO annotation file has of one image, read when they are needed.

    ``segmentation`` holds polygons, or run lengths in numbers or compressed.
    """
    classes = [categories.classes[entry["category_id"]] for entry in entries]

    def read(size: tuple[int, int]) -> TrueObjects:
        masks = []
        for entry in entries:
            try:
                masks.append(rle_of(entry["segmentation"], size))
            except (ValueError, TypeError, KeyError) as error:
                raise ImageError(
                    f"{image['file_name']}: segmentation of annotation {entry.get('id', '?')}: got "
                    f"{error}, expected polygons x, y, x, y, ... or run lengths of {size[0]} x "
                    f"{size[1]} pixels"
                ) from None
        known = mask_tools().area(masks) if masks else []
        areas = [float(e.get("area", own)) for e, own in zip(entries, known, strict=True)]
        crowds = [bool(entry.get("iscrowd", 0)) for entry in entries]
        return TrueObjects(size, masks, classes, areas, crowds)

    return Annotated(size_of(image), read)


def rle_of(shape: Any, size: tuple[int, int]) -> Rle:
    """Return the run lengths of a ``segmentation`` of COCO.

    COCO's tools hang at some damaged ones, which are a ValueError here that names what came.
    """
    tools = mask_tools()
    if isinstance(shape, list):
        for each in (np.asarray(polygon, np.float64) for polygon in shape):
            is_flat = each.ndim == 1 and len(each) >= 6 and not len(each) % 2
            if not is_flat or not (np.abs(each) <= _FARTHEST * max(size)).all():
                raise ValueError(f"a polygon {each.tolist()}"[:60])
        if not shape:
            raise ValueError("no polygon")
        parts = tools.frPyObjects(shape, *size)
        return functools.reduce(lambda first, second: tools.merge([first, second]), parts)
    (height, width), counts = shape["size"], shape["counts"]
    runs = decompress(counts) if isinstance(counts, str) else [int(each) for each in counts]
    if (height, width) != size or sum(runs) != height * width or min(runs) < 0:
        raise ValueError(f"{sum(runs)} pixels in run lengths of {height} x {width}")
    return encode(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T)


def encode(mask: BoolArray) -> Rle:
    """Return the run lengths of `mask`, (height, width)."""
    found: Rle = mask_tools().encode(np.asfortranarray(mask, np.uint8))
    return found


def decompress(text: str) -> list[int]:
    """Return the run lengths in a text of COCO: five bits a letter, from the third on differences.

    What is no such text, or is cut off, is a ValueError.
    """
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} in compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or not runs:
        raise ValueError("compressed run lengths that are cut off")
    return runs
