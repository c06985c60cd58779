"""Decoded frames of a video as RGB: colour matrix, range and rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_vit.data.preprocess import UInt8Array
from edge_vit.optional import require

_HD_HEIGHT = 720
# ITU-T H.273, matrix coefficients: what FFmpeg's AVColorSpace counts.
_MATRICES = {0: "RGB", 1: "BT.709", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}
_FULL_RANGE = 2  # AVColorRange


@dataclass(frozen=True)
class Colour:
    """How the pixels of a video became RGB of full range, 0 to 255.

    Where the stream does not name its matrix its height chooses: BT.709 from 720 lines on, as
    television has it, else BT.601.
    """

    pixel_format: str  # as FFmpeg calls it
    matrix: str  # BT.601, BT.709, BT.2020; RGB where nothing was to be converted
    is_full_range: bool  # whether luma runs from 0 to 255; else from 16 to 235
    is_matrix_assumed: bool

    def __str__(self) -> str:
        if self.matrix == "RGB":
            return f"{self.pixel_format}, nothing to convert"
        assumed = " (assumed: the stream does not say)" if self.is_matrix_assumed else ""
        reach = "full" if self.is_full_range else "limited"
        return f"{self.pixel_format} {self.matrix}{assumed}, {reach} range"


def colour_of(frame: Any) -> Colour:
    """Return how `frame`, a decoded PyAV frame, is to become RGB."""
    name = frame.format.name
    is_rgb = frame.format.is_rgb
    matrix = "RGB" if is_rgb else _MATRICES.get(int(frame.colorspace), "")
    if not matrix or (matrix == "RGB" and not is_rgb):
        guess = "BT.709" if frame.height >= _HD_HEIGHT else "BT.601"
        return Colour(name, guess, _has_full_range(frame), True)
    return Colour(name, matrix, is_rgb or _has_full_range(frame), False)


def to_rgb(frame: Any, colour: Colour) -> UInt8Array:
    """Return `frame`, a decoded PyAV frame, as uint8 (H, W, 3) RGB, upright."""
    if colour.matrix == "RGB":
        pixels = frame.to_ndarray(format="rgb24")
    else:
        reformatter = require("av.video.reformatter", "reading videos")
        spaces, ranges = reformatter.Colorspace, reformatter.ColorRange
        space = {"BT.709": spaces.ITU709, "BT.2020": getattr(spaces, "BT2020", spaces.ITU709)}.get(
            colour.matrix, spaces.ITU601
        )
        converted = frame.reformat(
            format="rgb24",
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ranges.JPEG if colour.is_full_range else ranges.MPEG,
            dst_color_range=ranges.JPEG,
        )
        pixels = converted.to_ndarray()
    return np.ascontiguousarray(_upright(pixels, frame))


def _upright(pixels: UInt8Array, frame: Any) -> UInt8Array:
    """`pixels` turned and mirrored as the display matrix of `frame` says, in steps of 90 degrees.

    The matrix takes (x, y) to (ax + cy, bx + dy), see FFmpeg's ``libavutil/display.h``.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4")[:9] / 65536
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        pixels, along, down = pixels.transpose(1, 0, 2), c, b
    else:
        along, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if along < 0 else 1]


def _has_full_range(frame: Any) -> bool:
    return int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
