"""Attention maps of two precisions over the image, as pictures and a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_vit.explain.values import AttentionMap, Explanation
from edge_vit.formats import REFERENCE
from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, number, percent
from edge_vit.tasks.maps.pictures import to_png

SIDE = 224  # pixels of a picture's longer side on the page; smaller images are enlarged to it

_HEAT = np.array(
    [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)]
)
"""Six points of a scale that is ever brighter (inferno): it reads the same in grey."""

_SIGNED = np.array([(33, 102, 172), (247, 247, 247), (178, 24, 43)])
"""Blue: more attention in fp32. Red: more in the other precision."""

Pixels = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """One picture of the page, PNG in base64, with what it shows in words."""

    title: str
    png: str
    alt: str


def attention_pictures(explanation: Explanation) -> tuple[Picture, ...]:
    """Return the image, the two maps over it, and their difference."""
    image = _image(explanation)
    reference, candidate = explanation.reference, explanation.candidate
    maps = [np.asarray(each.rollout, np.float64) for each in (reference, candidate)]
    low = min(each.min() for each in maps)
    reach = max(max(each.max() for each in maps) - low, 1e-12)  # one scale for both maps
    pictures = [Picture("image", _png(image), f"{explanation.image} as the model sees it")]
    for each, values in zip((reference, candidate), maps, strict=True):
        alt = f"Attention of {each.precision} in {explanation.image}: {_brightest(values)}"
        pictures.append(Picture(each.precision, _png(_heat(image, (values - low) / reach)), alt))
    alt = f"Difference of the two maps; they correlate by {explanation.correlation:.3f}"
    difference = _signed(image, (maps[1] - maps[0]) / reach)
    pictures.append(Picture("difference", _png(difference), alt))
    return tuple(pictures)


def attention_grid(explanations: Sequence[Explanation]) -> Grid:
    """Return one row per image: how alike the two maps are, and both predictions."""
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


def _answer(each: AttentionMap) -> str:
    if not each.answers:
        return MISSING
    return f"{each.answers[0].label}, {percent(each.answers[0].score, 1)}"


def _brightest(rollout: Values) -> str:
    row, column = np.unravel_index(int(rollout.argmax()), rollout.shape)
    down = ("top", "middle", "bottom")[min(2, 3 * int(row) // rollout.shape[0])]
    across = ("left", "centre", "right")[min(2, 3 * int(column) // rollout.shape[1])]
    return f"most at the {down} {across}"


def _image(explanation: Explanation) -> Pixels:
    image = Image.open(io.BytesIO(base64.b64decode(explanation.picture_png))).convert("RGB")
    factor = SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    method = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.LANCZOS
    return np.asarray(image.resize(size, method))


def _heat(image: Pixels, heat: Values) -> Pixels:
    """`image` in grey under a scale from dark to bright: what is not attended to stays dark."""
    shown = np.sqrt(np.clip(_enlarged(heat, image), 0, 1))  # faint places show too
    grey = image.mean(axis=2, keepdims=True) * 0.55
    return _mix(grey, _scale(_HEAT, shown), (0.25 + 0.6 * shown)[..., None])


def _signed(image: Pixels, values: Values) -> Pixels:
    shown = np.clip(_enlarged(values, image), -1, 1)
    strength = np.sqrt(np.abs(shown))
    grey = 120 + image.mean(axis=2, keepdims=True) * 0.4
    return _mix(grey, _scale(_SIGNED, (np.sign(shown) * strength + 1) / 2), strength[..., None])


def _enlarged(values: Values, image: Pixels) -> Values:
    """`values` (rows, columns) at the size of `image`, smoothly between the patches' centres."""
    small = Image.fromarray(values.astype(np.float32))
    size = (image.shape[1], image.shape[0])
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float64)


def _scale(points: npt.NDArray[np.int64], values: Values) -> Values:
    places = np.linspace(0, 1, len(points))
    return np.stack([np.interp(values, places, points[:, i]) for i in range(3)], axis=-1)


def _mix(under: Values, over: Values, cover: Values) -> Pixels:
    mixed: Pixels = (under * (1 - cover) + over * cover).round().clip(0, 255).astype(np.uint8)
    return mixed


def _png(pixels: Pixels) -> str:
    picture = Image.fromarray(pixels).quantize(128)
    return base64.b64encode(to_png(picture, optimize=True)).decode()
