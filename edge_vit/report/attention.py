"""Attention maps of two precisions over the image, on one sheet or on a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from edge_vit.explain.values import AttentionMap, Explanation, MapRows
from edge_vit.formats import REFERENCE
from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, number, percent

SIDE = 224
"""Pixels of a picture's longer side on the page; smaller images are enlarged to it."""

MARGIN, CAPTION = 12, 18  # pixels of the sheet

_HEAT = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)]
)
"""Six points of a scale that is ever brighter (inferno): it reads the same in grey."""

_SIGNED = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)])
"""Blue: more attention in fp32. Red: more in the other precision."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One picture of the page, with what it shows in words."""

    title: str
    png: str
    alt: str


@dataclass(frozen=True)
class ShownMaps:
    """One image with its maps, ready to be set."""

    shown: Explanation
    pictures: tuple[Picture, ...]


def attention_pictures(explanation: Explanation) -> tuple[Picture, ...]:
    """Return the image, the two maps over it, and their difference."""
    image = _image(explanation)
    reference, candidate = explanation.reference, explanation.candidate
    both = np.stack([_map(reference.rollout), _map(candidate.rollout)])
    low, reach = both.min(), max(both.max() - both.min(), 1e-12)  # one scale for both maps
    pictures = [Picture("image", _png(image), f"{explanation.image} as the model sees it")]
    for each in (reference, candidate):
        heated = _heat(image, (_map(each.rollout) - low) / reach)
        alt = f"Attention of {each.precision} in {explanation.image}: {_brightest(each)}"
        pictures.append(Picture(each.precision, _png(heated), alt))
    difference = _map(candidate.rollout) - _map(reference.rollout)
    alt = f"Difference of the two maps; they correlate by {explanation.correlation:.3f}"
    pictures.append(Picture("difference", _png(_signed(image, difference / reach)), alt))
    return tuple(pictures)


def shown_maps(explanations: Sequence[Explanation]) -> tuple[ShownMaps, ...]:
    """Return each image with its pictures."""
    return tuple(ShownMaps(shown, attention_pictures(shown)) for shown in explanations)


def attention_grid(explanations: Sequence[Explanation]) -> Grid:
    """Return one row per image: how alike the two maps are, and both answers."""
    rows = tuple(
        (
            e.image,
            _answer(e.reference),
            _answer(e.candidate),
            number(e.correlation, 4),
            percent(e.overlap, 0),
        )
        for e in explanations
    )
    candidate = explanations[0].candidate.precision if explanations else "candidate"
    columns = ("image", REFERENCE, candidate, "correlation", "brightest tenth in common")
    note = (
        f"Attention rollout, read from the {explanations[0].reading}. Correlation 1: both look at "
        "the same places in the same measure."
        if explanations
        else ""
    )
    return Grid("Attention maps", columns, rows, 3, note)


def attention_sheet(explanations: Sequence[Explanation]) -> bytes:
    """Return all images as one PNG: a row each, with image, both maps and their difference."""
    rows = [attention_pictures(explanation) for explanation in explanations]
    images = [[Image.open(io.BytesIO(base64.b64decode(p.png))) for p in row] for row in rows]
    width = max(image.width for row in images for image in row) + MARGIN
    height = max(image.height for row in images for image in row) + MARGIN + CAPTION
    sheet = Image.new("RGB", (4 * width + MARGIN, len(rows) * height + MARGIN), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for down, (row, pictures) in enumerate(zip(images, rows, strict=True)):
        for across, (image, picture) in enumerate(zip(row, pictures, strict=True)):
            place = (MARGIN + across * width, MARGIN + down * height + CAPTION)
            sheet.paste(image, place)
            title = picture.title
            if title == "difference":
                title = f"difference, correlation {explanations[down].correlation:.3f}"
            pen.text((place[0], place[1] - CAPTION + 2), _plain(title), fill=(27, 30, 36))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _answer(each: AttentionMap) -> str:
    if not each.answers:
        return MISSING
    return f"{each.answers[0].label}, {percent(each.answers[0].score, 1)}"


def _brightest(each: AttentionMap) -> str:
    rollout = _map(each.rollout)
    row, column = np.unravel_index(int(rollout.argmax()), rollout.shape)
    down = ("top", "middle", "bottom")[min(2, 3 * int(row) // rollout.shape[0])]
    across = ("left", "centre", "right")[min(2, 3 * int(column) // rollout.shape[1])]
    return f"most at the {down} {across}"


def _map(rows: MapRows) -> npt.NDArray[np.float64]:
    return np.asarray(rows, np.float64)


def _image(explanation: Explanation) -> Pixels:
    image = Image.open(io.BytesIO(base64.b64decode(explanation.picture_png))).convert("RGB")
    factor = SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    method = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.LANCZOS
    return np.asarray(image.resize(size, method))


def _enlarged(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """`values` (rows, columns) as (height, width), smoothly between the patches' centres."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BICUBIC), np.float64)


def _heat(image: Pixels, heat: npt.NDArray[np.float64]) -> Pixels:
    """`image` in grey under a scale from dark to bright: what is not looked at stays dark."""
    shown = np.sqrt(np.clip(_enlarged(heat, image.shape[:2]), 0, 1))  # faint places show too
    grey = (image.mean(axis=2, keepdims=True) * 0.55).repeat(3, axis=2)
    cover = (0.25 + 0.6 * shown)[..., None]
    return _mix(grey, _scale(_HEAT, shown), cover)


def _signed(image: Pixels, values: npt.NDArray[np.float64]) -> Pixels:
    shown = np.clip(_enlarged(values, image.shape[:2]), -1, 1)
    strength = np.sqrt(np.abs(shown))
    grey = 120 + (image.mean(axis=2, keepdims=True) * 0.4).repeat(3, axis=2)
    return _mix(grey, _scale(_SIGNED, (np.sign(shown) * strength + 1) / 2), strength[..., None])


def _scale(
    points: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    places = np.linspace(0, 1, len(points))
    return np.stack([np.interp(values, places, points[:, i]) for i in range(3)], axis=-1)


def _mix(
    under: npt.NDArray[np.float64],
    over: npt.NDArray[np.float64],
    cover: npt.NDArray[np.float64],
) -> Pixels:
    mixed: Pixels = (under * (1 - cover) + over * cover).round().clip(0, 255).astype(np.uint8)
    return mixed


def _png(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(128).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _plain(text: str) -> str:
    """What Pillow's own font can draw."""
    return text.encode("latin-1", "replace").decode("latin-1")
