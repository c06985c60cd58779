"""The map of one image: values on the model's grid, in the image's own pixels on demand."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.maps.numerics import principal_colours
from edge_vit.tasks.maps.pictures import blend, colours, scaled, to_png, to_png16
from edge_vit.tasks.maps.placement import Kernel, to_image
from edge_vit.tasks.numerics import Float64Array, FloatArray
from edge_vit.tasks.prediction import Prediction

_MAX_CELLS = 16  # of a side of the coarse map in a record
_DIGITS = 5


@dataclass(frozen=True, eq=False)
class MapPrediction(Prediction):
    """Values on a grid."""

    name: str  # of the output
    values: FloatArray  # float32 (channels, rows, columns), on the model's own grid
    size: tuple[int, int]  # (height, width) of the image in pixels
    spec: PreprocessSpec | None = None  # None where the image is the input itself, resized
    kernel: Kernel = "bilinear"  # between cells

    def whole(self, size: tuple[int, int] | None = None) -> FloatArray:
        """Return the map in the image's pixels, float32 (height, width), or (channels, …).

        It is made anew each time. What the model did not see is NaN. `size` is another (height,
        width) of the same image.
        """
        found = to_image(self.values, size or self.size, self.spec, self.kernel)
        return found[0] if len(found) == 1 else found

    def shades(
        self, size: tuple[int, int] | None = None, basis: Shading | None = None
    ) -> tuple[Any, Any]:
        """Return the map as colours, uint8 (height, width, 3), and where it is known.

        One channel goes from blue to yellow; of several, the three directions in which cells differ
        most are red, green and blue. `basis` holds colours and their range fixed for several maps.
        """
        basis = basis or Shading.of(self)
        cells = basis.project(self.values)
        found = to_image(cells, size or self.size, self.spec, self.kernel)
        known = np.isfinite(found[0])
        shares = np.stack(
            [scaled(f, low, high)[0] for f, (low, high) in zip(found, basis.ranges, strict=True)]
        )
        if len(shares) == 1:
            return colours(shares[0]), known
        levels = np.nan_to_num(shares.transpose(1, 2, 0)) * 255
        return levels.round().astype(np.uint8), known

    def draw(self, picture: Any) -> Any:
        """Return `picture` with the map's colours over it."""
        return blend(picture, *self.shades((picture.height, picture.width)))

    def files(self) -> Mapping[str, bytes]:
        """Return the map as a 16-bit PNG in the image's pixels, and as colours alone.

        Values of several channels are a ``.npy`` file, on the model's grid.
        """
        from PIL import Image

        files = {f"{self.name}.colours.png": to_png(Image.fromarray(self.shades()[0]))}
        if len(self.values) == 1:
            return {f"{self.name}.png": to_png16(self.whole()), **files}
        values = io.BytesIO()
        np.save(values, self.values)
        return {f"{self.name}.npy": values.getvalue(), **files}

    @property
    def headline(self) -> str | None:
        """Range and mean of the values."""
        low, high, mean = self._summary
        return f"{self.name} {low:.3g} to {high:.3g}, mean {mean:.3g}"

    def extras(self) -> dict[str, Any]:
        """Return shape, range and mean, and of one channel a coarse map of cell means."""
        low, high, mean = (_short(value) for value in self._summary)
        facts: dict[str, Any] = {
            "name": self.name,
            "shape": list(self.values.shape),
            "low": low,
            "high": high,
            "mean": mean,
        }
        if len(self.values) == 1:
            facts["coarse"] = [[_short(v) for v in row] for row in _coarse(self.values[0])]
        return {"map": facts}

    def cells(self) -> list[tuple[str, ...]]:
        """Return name, grid, least, largest and mean value."""
        shape = " × ".join(map(str, self.values.shape))
        return [(self.name, shape, *(f"{value:.4g}" for value in self._summary))]

    @property
    def _summary(self) -> tuple[float, float, float]:
        values = self.values.astype(np.float64)
        return float(values.min()), float(values.max()), float(values.mean())


@dataclass(frozen=True, eq=False)
class Shading:
    """How values become colours."""

    directions: Float64Array | None  # (channels, colours); None where the only channel is shown
    ranges: tuple[tuple[float, float], ...]  # lowest and highest value of each colour

    @classmethod
    def of(cls, prediction: MapPrediction) -> Shading:
        """Return the one that fits the range of `prediction`."""
        values = prediction.values
        directions = principal_colours(values) if len(values) > 1 else None
        shown = cls(directions, ()).project(values)
        return cls(directions, tuple((float(each.min()), float(each.max())) for each in shown))

    def project(self, values: FloatArray) -> FloatArray:
        """Return `values` (channels, rows, columns) as (colours, rows, columns)."""
        if self.directions is None:
            return values
        return np.tensordot(self.directions.T, values, 1)


def _coarse(values: FloatArray) -> list[list[float]]:
    """Return means of `values` over at most 16 x 16 equal parts."""
    rows, columns = (
        np.linspace(0, side, min(side, _MAX_CELLS) + 1).astype(int)[:-1] for side in values.shape
    )
    wide = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, 0), columns, 1)
    ends = [
        np.diff([*starts, side]) for starts, side in zip((rows, columns), values.shape, strict=True)
    ]
    found: list[list[float]] = (wide / np.outer(*ends)).tolist()
    return found


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
