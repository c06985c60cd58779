"""Maps as pictures: 16-bit PNG that keeps the values, colours, and both beside the image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.tasks.numerics import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image

LOW, HIGH = "low", "high"
"""Names in a PNG's text of the values that 0 (or 1, see `to_png16`) and 65535 stand for."""

_GAP = 4  # pixels between pictures that stand side by side
_OPACITY = 0.6  # of a map over its image
_TOP = 65535

_STOPS = np.array(
    [
        *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
        *((31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37)),
    ],
    np.float64,
)
"""Ten colours of viridis (CC0), from the lowest value to the highest."""

_AT = np.linspace(0, len(_STOPS) - 1, 256)
_TABLE = np.stack([np.interp(_AT, np.arange(len(_STOPS)), each) for each in _STOPS.T], axis=-1)
_TABLE = _TABLE.round().astype(np.uint8)


def to_png(picture: Image, **settings: Any) -> bytes:
    """Return `picture` as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **settings)
    return buffer.getvalue()


def to_png16(values: FloatArray) -> bytes:
    """Return `values` (height, width) as a gray 16-bit PNG.

    Values from the smallest to the largest become 0 to 65535; where there is NaN, NaN is 0 and the
    values 1 to 65535. The text of the file has both as ``low`` and ``high``.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    shares, low, high = scaled(values)
    is_known = np.isfinite(shares)
    first = 0 if is_known.all() else 1
    levels = np.where(is_known, first + np.round(shares * (_TOP - first)), 0).astype(np.uint16)
    notes = PngInfo()
    for name, value in ((LOW, low), (HIGH, high), ("first", first)):
        notes.add_text(name, repr(value))
    return to_png(Image.fromarray(levels), pnginfo=notes)


def from_png16(source: Path | bytes) -> FloatArray:
    """Return the values of what `to_png16` wrote, to a 65535th of their range, NaN where unknown.

    Other gray pictures, such as a PNG of 8 or 16 bits or a TIFF of floats, give their levels.
    """
    from PIL import Image

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        levels, notes = np.asarray(image, np.float64), dict(image.info)
    if LOW not in notes or HIGH not in notes:
        return levels.astype(np.float32)
    low, high, first = float(notes[LOW]), float(notes[HIGH]), int(notes.get("first", 0))
    values = low + (levels - first) / (_TOP - first) * (high - low)
    return np.where(levels >= first, values, np.nan).astype(np.float32)


def scaled(
    values: FloatArray, low: float | None = None, high: float | None = None
) -> tuple[FloatArray, float, float]:
    """Return `values` so that `low` is 0 and `high` 1, clipped, and both; NaN stays."""
    known = values[np.isfinite(values)]
    low = float(known.min()) if low is None and known.size else low or 0.0
    high = float(known.max()) if high is None and known.size else high or 0.0
    span = high - low if high > low else 1.0
    shares: FloatArray = np.clip((values - low) / span, 0, 1)
    return shares, low, high


def colours(shares: FloatArray) -> NDArray[np.uint8]:
    """Return `shares`, 0 to 1, as colours, uint8 (..., 3): dark blue to yellow."""
    found: NDArray[np.uint8] = _TABLE[(np.nan_to_num(shares) * 255).round().astype(np.uint8)]
    return found


def blend(picture: Image, shown: NDArray[np.uint8], known: NDArray[np.bool_]) -> Image:
    """Return `picture` with `shown`, uint8 (height, width, 3), over it where it is `known`."""
    from PIL import Image

    ground = picture.convert("RGB")
    mixed = Image.blend(ground, Image.fromarray(shown), _OPACITY)
    return mixed if known.all() else Image.composite(mixed, ground, Image.fromarray(known))


def beside(pictures: Sequence[Image]) -> Image:
    """Return pictures of one height side by side, a white gap between them."""
    from PIL import Image

    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + _GAP
    return canvas
