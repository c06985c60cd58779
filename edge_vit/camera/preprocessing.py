"""Preprocessing fast enough for a camera, used only where it gives the reference's pixels.

`edge_vit.data.preprocess` stays the truth. Two backends are faster, both with Pillow's own filters:
``cropped`` resamples only what the crop keeps; ``reduced`` first averages whole blocks of pixels,
until the picture is at least twice as large as it shall be (Pillow's ``reducing_gap``).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from edge_vit.data.preprocess import UInt8Array, check_image, empty_input, preprocess
from edge_vit.errors import SpecError
from edge_vit.spec import PreprocessSpec, center_window, resized_size

_LOG = logging.getLogger(__name__)

REFERENCE = "pillow"
MAX_MEAN_DIFF = 1.0
"""Largest mean difference from the reference that is allowed, in levels of 0 to 255."""
_REDUCING_GAP = 2.0
_GRID = 8  # cells across and down, in which detail is looked for
_MIN_LEVELS = 2.0  # standard deviation of a colour in a cell with detail
_MIN_SHARE = 0.25  # of cells; a picture that decides has more with detail
_MAX_SIZES = 64  # frame sizes that are remembered; others get the reference


class Preprocessing:
    """Makes the model's input of a frame.

    `name` is one of `BACKENDS`, or ``auto`` for the fastest. For each frame size a backend is used
    from the first frame with detail on, if its pixels there are within `MAX_MEAN_DIFF` of the
    reference's; until then, and where none is, the reference is used.
    """

    def __init__(self, spec: PreprocessSpec, name: str = REFERENCE) -> None:
        if name != "auto" and name not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise SpecError(f"preprocess: got {name!r}, expected one of auto, {known}")
        self._spec, self._name = replace(spec, clip=None), name  # clips are made of prepared frames
        self._candidates = [each for each in BACKENDS if name in ("auto", each)]
        self._chosen: dict[tuple[int, ...], str] = {}  # by a frame's shape; "" before any detail

    def __call__(self, pixels: UInt8Array) -> UInt8Array:
        """Return `pixels`, uint8 (H, W, 3) RGB, as the model's input, uint8 (*image_size, 3)."""
        shape = np.shape(pixels)
        chosen = self._chosen.get(shape, "")
        may_choose = shape in self._chosen or len(self._chosen) < _MAX_SIZES
        if not chosen and may_choose and self._name != REFERENCE:
            return self._choose(pixels)
        return BACKENDS[chosen or REFERENCE](pixels, self._spec)

    @property
    def description(self) -> str:
        """Which backend makes the inputs of which frames."""
        by_backend: dict[str, list[str]] = {}
        for shape, name in self._chosen.copy().items():
            by_backend.setdefault(name, []).append(f"{shape[1]}x{shape[0]}")
        parts = [
            f"{name or REFERENCE} for {', '.join(sizes)}"
            + ("" if name else ", which has shown no detail yet")
            for name, sizes in by_backend.items()
        ]
        return "; ".join([self._name, *parts])

    def _choose(self, pixels: UInt8Array) -> UInt8Array:
        """Return the reference's input; choose a backend where the frame has enough detail."""
        expected = preprocess(pixels, self._spec)
        if not has_detail(expected):
            self._chosen.setdefault(pixels.shape, "")
            return expected
        height, width = pixels.shape[:2]
        for name in self._candidates:
            mean_diff, max_diff = differ(BACKENDS[name](pixels, self._spec), expected)
            is_good = mean_diff <= MAX_MEAN_DIFF
            _LOG.log(
                logging.DEBUG if is_good else logging.WARNING,
                "preprocessing %s at %dx%d: mean difference %.3f levels, largest %d%s",
                *(name, width, height, mean_diff, max_diff),
                "" if is_good else "; it is not used",
            )
            if is_good:
                self._chosen[pixels.shape] = name
                return expected
        self._chosen[pixels.shape] = REFERENCE
        return expected


def has_detail(model_input: UInt8Array) -> bool:
    """Return whether enough of a picture, uint8 (H, W, 3), has detail to compare backends on it."""
    cells = [
        float(cell.std(axis=(0, 1)).max())
        for rows in np.array_split(model_input, min(_GRID, model_input.shape[0]), axis=0)
        for cell in np.array_split(rows, min(_GRID, model_input.shape[1]), axis=1)
    ]
    return sum(level >= _MIN_LEVELS for level in cells) > _MIN_SHARE * len(cells)


def differ(got: UInt8Array, expected: UInt8Array) -> tuple[float, int]:
    """Return the mean and the largest absolute difference, in levels."""
    apart = np.abs(got.astype(np.int16) - expected.astype(np.int16))
    return float(apart.mean()), int(apart.max())


def _cropped(pixels: UInt8Array, spec: PreprocessSpec, gap: float | None = None) -> UInt8Array:
    """The input of `pixels`, resampled only where the crop keeps it."""
    check_image(pixels)
    height, width = pixels.shape[:2]
    resized_height, resized_width = resized_size((height, width), spec)
    from_rows, to_rows = center_window(resized_height, spec.image_size[0])
    from_columns, to_columns = center_window(resized_width, spec.image_size[1])
    down, across = height / resized_height, width / resized_width
    box = (
        from_columns.start * across,
        from_rows.start * down,
        min(width, from_columns.stop * across),
        min(height, from_rows.stop * down),
    )
    size = (from_columns.stop - from_columns.start, from_rows.stop - from_rows.start)
    resample = Image.Resampling[spec.interpolation.upper()]
    part = Image.fromarray(pixels).resize(size, resample, box=box, reducing_gap=gap)
    if size == spec.image_size[::-1]:
        return np.asarray(part)
    canvas = empty_input(spec)
    canvas[to_rows, to_columns] = np.asarray(part)
    return canvas


BACKENDS: Mapping[str, Callable[[UInt8Array, PreprocessSpec], UInt8Array]] = {
    "reduced": functools.partial(_cropped, gap=_REDUCING_GAP),
    "cropped": _cropped,
    REFERENCE: preprocess,
}
"""Every backend, the fastest first."""
