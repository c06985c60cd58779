"""Boxes and labels on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_vit.printable import in_ascii
from edge_vit.tasks.detection.prediction import Box

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (0, 128, 128),
    (240, 50, 230),
    (128, 128, 0),
)
"""By class, again from the first after the last; white text can be read on each."""

_REFERENCE, _CANDIDATE = (240, 228, 66), (204, 0, 153)  # told apart by the colour-blind too


def draw_both(picture: Image, reference: Sequence[Box], candidate: Sequence[Box]) -> Image:
    """Return a copy of `picture` with two sets of boxes: thick yellow ones, thin magenta on top."""
    from PIL import ImageDraw, ImageFont

    canvas = picture.convert("RGB").copy()
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(max(10, min(canvas.size) // 20))
    for boxes, colour, width, is_below in (
        (reference, _REFERENCE, 3, False),
        (candidate, _CANDIDATE, 1, True),
    ):
        for box in boxes:
            x1, y1, x2, y2 = box.box
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=width)
            text = f"{box.label} {box.score:.2f}"
            bottom = pen.textbbox((0, 0), text, font=font)[3]
            at = min(y2, canvas.height - bottom) if is_below else max(0, y1 - bottom)
            ink = "white" if is_below else "black"
            write_label(pen, (x1, at), text, font, padding=1, ground=colour, ink=ink)
    return canvas


def draw_boxes(picture: Image, boxes: Sequence[Box]) -> Image:
    """Return a copy of `picture` with `boxes`, the best one on top."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = picture.convert("RGB")
    canvas = canvas.copy() if canvas is picture else canvas
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 200))
    font = ImageFont.load_default(max(10, round(min(canvas.size) / 40)))
    for box in reversed(boxes):
        colour = _COLOURS[box.index % len(_COLOURS)]
        x1, y1, x2, y2 = box.box
        if x2 <= x1 or y2 <= y1:
            continue
        pen.rectangle(box.box, outline=colour, width=line)
        text = f"{box.label} {box.score:.2f}"
        _, top, _, bottom = pen.textbbox((0, 0), text, font=font)
        at = (x1, max(0, y1 - (bottom - top) - 2 * line))
        write_label(pen, at, text, font, padding=line, ground=colour, ink="white")
    assert isinstance(canvas, Image.Image)
    return canvas


def write_label(
    pen: ImageDraw,
    at: tuple[float, float],
    text: str,
    font: FreeTypeFont | ImageFont,
    *,
    padding: int,
    ground: tuple[int, int, int],
    ink: str,
) -> None:
    """Write `text`, in ASCII, on a ground of its own, whose upper left corner is `at`."""
    text = in_ascii(text)
    (x, y), (left, top, right, bottom) = at, pen.textbbox((0, 0), text, font=font)
    pen.rectangle((x, y, x + right - left + 2 * padding, y + bottom - top + 2 * padding), ground)
    pen.text((x + padding - left, y + padding - top), text, fill=ink, font=font)
