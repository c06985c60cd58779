"""Masks over pictures, in colours that tell classes and segments apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.printable import in_ascii
from edge_vit.spec import ModelSpec
from edge_vit.tasks.detection.drawing import write_label
from edge_vit.tasks.maps.pictures import blend
from edge_vit.tasks.segmentation.decoding import NOTHING, ClassMap, Segment, numbered

if TYPE_CHECKING:
    from PIL.Image import Image

_GROUND = ("background", "__background__", "unlabeled", "unlabelled", "void", "other")
"""Names of a first class that is the rest, over which nothing is drawn."""

_MOST_NAMES = 12  # written on a picture
_LIGHT = 300  # sum of R, G and B from which black letters are read better


def _palette() -> NDArray[np.uint8]:
    """Return the 256 colours of PASCAL VOC's masks, whose first is black and last is grey-white."""
    levels = np.arange(256)
    bits = (levels[:, None] >> np.arange(8)) & 1  # each three bits are one of R, G and B
    found = np.zeros((256, 3), int)
    for bit in range(8):
        found[:, bit % 3] |= bits[:, bit] << (7 - bit // 3)
    return found.astype(np.uint8)


PALETTE = _palette()
"""Colour of each class index, uint8 (256, 3)."""


def shades(classes: ClassMap, spec: ModelSpec) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the colours of a class map, uint8 (height, width, 3), and where there are some."""
    has_ground = bool(spec.labels) and spec.labels[0].lower() in _GROUND
    shown: NDArray[np.bool_] = classes != NOTHING
    if has_ground:
        shown &= classes != 0
    return PALETTE[(np.maximum(classes, 0) + (not has_ground)) % 256], shown


def draw_classes(
    picture: Image, classes: ClassMap, spec: ModelSpec, *, is_named: bool = True
) -> Any:
    """Return `picture` with the colours of `classes` over it, and the names of what is shown."""
    colours, shown = shades(classes, spec)
    canvas = blend(picture, colours, shown)
    if not is_named:
        return canvas
    listed, counts = np.unique(classes[shown], return_counts=True)
    for index in listed[np.argsort(-counts, kind="stable")][:_MOST_NAMES].tolist():
        x, y = _middle((classes == index) & shown)
        _name(canvas, (x, y), spec.label(index), colours[y, x].tolist())
    return canvas


def draw_segments(
    picture: Image, segments: Sequence[Segment], spec: ModelSpec, *, is_named: bool = True
) -> Any:
    """Return `picture` with the colour of each of `segments` over it, its name and its score."""
    numbers, _ = numbered(segments, (picture.height, picture.width))
    canvas = blend(picture, PALETTE[numbers % 256], numbers > 0)
    if not is_named:
        return canvas
    for number, segment in reversed(list(enumerate(segments, 1))):
        text = f"{spec.label(segment.index)} {segment.score:.2f}"
        _name(canvas, _middle(segment.mask), text, PALETTE[number % 256].tolist())
    return canvas


def paint(picture: Image, where: NDArray[np.bool_]) -> Image:
    """Return `picture` with white pixels at `where`, (height, width)."""
    from PIL import Image

    pixels = np.asarray(picture.convert("RGB")).copy()
    pixels[where] = 255
    return Image.fromarray(pixels)


def _middle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the column and the row of the pixel that half of those of `mask` lie before."""
    rows, columns = np.nonzero(mask)
    return int(columns[len(columns) // 2]), int(rows[len(rows) // 2])


def _name(canvas: Image, at: tuple[float, float], text: str, ground: Sequence[int]) -> None:
    from PIL import ImageDraw, ImageFont

    pen, text = ImageDraw.Draw(canvas), in_ascii(text)
    font = ImageFont.load_default(max(9, min(canvas.size) // 30))
    _, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    most = canvas.width - right - 2, canvas.height - bottom - 2
    x, y = (max(0.0, min(x, end)) for x, end in zip(at, most, strict=True))
    colour = (ground[0], ground[1], ground[2])
    ink = "black" if sum(colour) > _LIGHT else "white"
    write_label(pen, (x, y), text, font, padding=1, ground=colour, ink=ink)
