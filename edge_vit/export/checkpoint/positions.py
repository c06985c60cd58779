"""Position embeddings of a checkpoint: which grid of patches they are for, and for which images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edge_vit.errors import ArtifactError

Grid = tuple[int, int]


@dataclass(frozen=True)
class SourceGrid:
    """What is known about the images that a checkpoint was trained on.

    Attributes:
        where: the checkpoint, for messages.
        patch: (height, width) of a patch in pixels.
        said: image size that the user states.
        in_file: image sizes that the file's own options speak of.
        default: image size of the model's published configuration.
    """

    where: str
    patch: Grid
    said: tuple[int, int] | None = None
    in_file: Iterable[tuple[int, int]] = ()
    default: tuple[int, int] | None = None

    def of(self, num_patches: int) -> Grid:
        """Return (rows, columns) of `num_patches` positions, by the best evidence that there is.

        The user's word, the options in the file, the model's own default where it has as many
        patches, else the square.

        Raises:
            ArtifactError: nothing tells; or what the user says cannot be.
        """
        if self.said is not None:
            grid = self._grid(self.said)
            if math.prod(grid) != num_patches:
                raise ArtifactError(
                    f"{self.where} has positions for {num_patches} patches, but --checkpoint-size "
                    f"{_text(self.said)} makes {grid[0]} x {grid[1]} of "
                    f"{self.patch[0]} x {self.patch[1]} pixels: expected "
                    f"{self._options(num_patches)}"
                )
            return grid
        for sizes in (self.in_file, [self.default] if self.default else []):
            grids = {self._grid(size) for size in sizes}
            fitting = {grid for grid in grids if math.prod(grid) == num_patches}
            if len(fitting) == 1:
                return fitting.pop()
        side = math.isqrt(num_patches)
        if side * side == num_patches:
            return side, side
        raise ArtifactError(
            f"{self.where} has positions for {num_patches} patches of "
            f"{self.patch[0]} x {self.patch[1]} pixels, which are not square, and does not tell "
            "height and width of the images that it was trained on. Add "
            "--checkpoint-size HEIGHT,WIDTH, such as "
            f"{self._options(num_patches)}"
        )

    def size_of(self, num_patches: int) -> tuple[int, int]:
        """Return (height, width) in pixels of the images that `num_patches` positions are for."""
        rows, columns = self.of(num_patches)
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


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]},{size[1]}"
