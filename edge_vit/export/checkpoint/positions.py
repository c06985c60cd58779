"""Position embeddings of a checkpoint: which grid of patches they are for, and for which images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from edge_vit.errors import ArtifactError

Grid = tuple[int, int]

_MIN_PATCHES = 16
_MAX_ASPECT = 16
_ALIKE = 0.8  # neighbours of trained ViTs lie at 0.2 to 0.7 of the distance of any two patches
_MARGIN = 0.03


@dataclass(frozen=True)
class SourceGrid:
    """What is known about the images that a checkpoint was trained on; (height, width) each."""

    where: str  # the checkpoint, for messages
    patch: Grid  # its size in pixels
    stated: tuple[int, int] | None = None  # image size, by the user
    in_file: Iterable[tuple[int, int]] = ()  # image sizes in the file's own options
    default: tuple[int, int] | None = None  # of the model's published configuration

    def of(self, positions: Tensor) -> Grid:
        """Return (rows, columns) of `positions`, (patches, channels), by the best evidence.

        What the user states, the options in the file, what trained positions show by themselves,
        the model's own default where it has as many patches, else the square.
        """
        num_patches = len(positions)
        if self.stated is not None:
            grid = self._grid(self.stated)
            if math.prod(grid) != num_patches:
                raise ArtifactError(
                    f"{self.where} has positions for {num_patches} patches, but --checkpoint-size "
                    f"{_text(self.stated)} makes {grid[0]} x {grid[1]} of {self.patch[0]} x "
                    f"{self.patch[1]} pixels: expected {self._options(num_patches)}"
                )
            return grid
        fitting = {self._grid(size) for size in self.in_file}
        fitting = {grid for grid in fitting if math.prod(grid) == num_patches}
        if len(fitting) == 1:
            return fitting.pop()
        shown = grid_shown_by(positions)
        if shown is not None:
            return shown
        if self.default and math.prod(self._grid(self.default)) == num_patches:
            return self._grid(self.default)
        side = math.isqrt(num_patches)
        if side * side == num_patches:
            return side, side
        raise ArtifactError(
            f"{self.where} has positions for {num_patches} patches of "
            f"{self.patch[0]} x {self.patch[1]} pixels, which are not square, and does not tell "
            "height and width of the images that it was trained on. Add "
            f"--checkpoint-size HEIGHT,WIDTH, such as {self._options(num_patches)}"
        )

    def size_of(self, positions: Tensor) -> tuple[int, int]:
        """Return (height, width) in pixels of the images that `positions` are for, as `of` does."""
        rows, columns = self.of(positions)
        return rows * self.patch[0], columns * self.patch[1]

    def _grid(self, size: tuple[int, int]) -> Grid:
        return size[0] // self.patch[0], size[1] // self.patch[1]

    def _options(self, num_patches: int) -> str:
        """Return the sizes of `num_patches` patches that are least elongated, as options."""
        rows = next(r for r in range(math.isqrt(num_patches), 0, -1) if num_patches % r == 0)
        short, long = rows, num_patches // rows
        grids = dict.fromkeys([(long, short), (short, long)])
        sizes = [_text((r * self.patch[0], c * self.patch[1])) for r, c in grids]
        return " or ".join(sizes)


def grid_shown_by(positions: Tensor) -> Grid | None:
    """Return (rows, columns) where trained `positions`, (patches, channels), show them.

    For each grid of as many patches, the mean squared distance of neighbours, which are alike, is
    compared with that of any two patches. Of random positions all come out at 1.
    """
    count = len(positions)
    if count < _MIN_PATCHES or not positions.is_floating_point() or positions.is_meta:
        return None
    values = positions.double()
    spread = 2 * (values - values.mean(0)).square().sum(1).mean().item()
    if not (math.isfinite(spread) and spread > 0):
        return None
    ranked = sorted(
        (_neighbour_distance(values, (rows, count // rows)) / spread, rows)
        for rows in range(1, count + 1)
        if count % rows == 0 and max(rows, count // rows) <= _MAX_ASPECT * min(rows, count // rows)
    )
    if not ranked or ranked[0][0] > _ALIKE:
        return None
    if len(ranked) > 1 and ranked[1][0] - ranked[0][0] < _MARGIN:
        return None
    return ranked[0][1], count // ranked[0][1]


def _neighbour_distance(values: Tensor, grid: Grid) -> float:
    """Return the mean squared distance of vertical and horizontal neighbours in `grid`."""
    image = values.reshape(*grid, -1)
    steps = [image.diff(dim=0).square().sum(-1), image.diff(dim=1).square().sum(-1)]
    total = sum(step.sum().item() for step in steps)
    return float(total / sum(step.numel() for step in steps))


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]},{size[1]}"
