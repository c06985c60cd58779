"""Maps in an image's own pixels: the model's resize, padding and crop undone, outside the graph.

Values between the cells of a map are interpolated as ``torch.nn.functional.interpolate`` does it
with ``align_corners=False``. An image that was only resized gets what that function gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_vit.spec import PreprocessSpec, place
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, IntArray

Kernel = Literal["nearest", "bilinear", "bicubic"]

_CUBIC = -0.75  # as PyTorch has it; Pillow takes -0.5
_MAX_VALUES = 2_000_000  # of a strip


@dataclass(frozen=True, eq=False)
class _Taps:
    """Cells of one axis that each pixel is made of, and their weights, (pixels, taps) each."""

    cells: IntArray
    weights: Float64Array
    is_seen: BoolArray  # whether the model saw the pixel, (pixels,)

    def part(self, pixels: slice) -> _Taps:
        """Return those of some pixels."""
        return _Taps(self.cells[pixels], self.weights[pixels], self.is_seen[pixels])

    def along(self, values: FloatArray, axis: int) -> FloatArray:
        """Return float32 `values`, whose `axis` holds cells, with pixels there."""
        shape = [1] * values.ndim
        shape[axis] = len(self.cells)
        found: FloatArray | None = None
        for cells, weights in zip(self.cells.T, self.weights.T, strict=True):
            part: FloatArray = np.take(values, cells, axis) * weights.astype(np.float32).reshape(
                shape
            )
            found = part if found is None else found + part
        assert found is not None
        return found


class Placed:
    """Where each pixel of an image of `size` lies on a map of the model, (rows, columns).

    Without a `spec` the image is the model's input itself, resized.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        size: tuple[int, int],
        spec: PreprocessSpec | None,
        kernel: Kernel = "bilinear",
    ) -> None:
        scales, offsets = (1.0, 1.0), (0.0, 0.0)
        inputs = size
        if spec is not None:
            where, inputs = place(size, spec), spec.image_size
            scales, offsets = (where.scale_y, where.scale_x), (where.top, where.left)
        self.size = size
        self._rows, self._columns = (
            _taps(*axis, kernel) for axis in zip(grid, size, scales, offsets, inputs, strict=True)
        )

    @property
    def seen(self) -> BoolArray:
        """Which pixels the model saw, (height, width): a crop leaves some out."""
        return self._rows.is_seen[:, None] & self._columns.is_seen[None]

    def whole(self, values: FloatArray) -> FloatArray:
        """Return `values`, (..., rows, columns), as float32 (..., height, width)."""
        return self._columns.along(self._rows.along(np.asarray(values, np.float32), -2), -1)

    def strips(self, values: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
        """Yield rows of pixels, and `values` there, (..., rows of the strip, width).

        Of maps with many channels only a strip is made at a time.
        """
        height, width = self.size
        count = max(1, _MAX_VALUES // (width * int(np.prod(values.shape[:-2], dtype=int))))
        for start in range(0, height, count):
            rows = slice(start, min(start + count, height))
            yield rows, self.part(rows, slice(None)).whole(values)

    def part(self, rows: slice, columns: slice) -> Placed:
        """Return the places of some rows and columns of the image's pixels."""
        found = copy.copy(self)
        found._rows, found._columns = self._rows.part(rows), self._columns.part(columns)
        found.size = len(found._rows.cells), len(found._columns.cells)
        return found

    def reach(self, cells: BoolArray) -> tuple[slice, slice]:
        """Return the rows and the columns of pixels that are made of any of `cells`, or more.

        `cells` are (rows, columns) of the map; both are empty where there is none.
        """
        found = []
        for taps, axis in ((self._rows, 1), (self._columns, 0)):
            along: BoolArray = np.asarray(cells.any(axis=axis))
            pixels = np.flatnonzero(along[taps.cells].any(axis=1))
            found.append(slice(int(pixels[0]), int(pixels[-1]) + 1) if len(pixels) else slice(0))
        return found[0], found[1]


def to_image(
    values: FloatArray,
    size: tuple[int, int],
    spec: PreprocessSpec | None,
    kernel: Kernel = "bilinear",
) -> FloatArray:
    """Return a map (..., rows, columns) in an image's own pixels, float32 (..., height, width).

    What the model did not see, since it was cropped off, is NaN. For the arguments see `Placed`.
    """
    rows, columns = values.shape[-2:]
    placed = Placed((rows, columns), size, spec, kernel)
    found = placed.whole(values)
    found[..., ~placed.seen] = np.nan
    return found


def _taps(
    cells: int, pixels: int, scale: float, offset: float, inputs: int, kernel: Kernel
) -> _Taps:
    """Return the taps of one axis; `inputs` is the model's input along it, in pixels."""
    at = (np.arange(pixels) + 0.5) * scale + offset  # in the input, from the outer corner
    is_seen = (at >= 0) & (at <= inputs)
    at = at * (cells / inputs)
    if kernel == "nearest":
        found = np.floor(at + 1e-9).astype(np.int64)[:, None]
        return _Taps(np.clip(found, 0, cells - 1), np.ones(found.shape), is_seen)
    at = at - 0.5
    if kernel == "bilinear":
        at = np.clip(at, 0, cells - 1)
    below = np.floor(at).astype(np.int64)
    rest = (at - below)[:, None]
    if kernel == "bilinear":
        near, weights = np.arange(2), np.concatenate([1 - rest, rest], axis=1)
    else:
        near = np.arange(-1, 3)
        weights = _cubic(np.abs(rest - near))
    return _Taps(np.clip(below[:, None] + near, 0, cells - 1), weights, is_seen)


def _cubic(distance: Float64Array) -> Float64Array:
    """Return the weight of a cell at `distance` (Keys 1981), which is 0 to 2."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)
