"""Where weights and a model differ, and the option that would bring them together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edge_vit.errors import ArtifactError

Shape = tuple[int, ...]

COUNTER = "num_batches_tracked"
"""How batch norms call a count of training steps, which older files do not have."""

_MAX_LISTED = 8
MAX_PREFIX = 9
"""Tokens before the patches, class and registers, are fewer."""


@dataclass(frozen=True)
class Misfit:
    """What keeps weights from being loaded; empty where nothing does.

    Attributes:
        missing: shape of each tensor that only the model has, by name.
        unexpected: shape of each tensor that only the weights have, by name.
        misshapen: (shape in the weights, shape in the model) of each tensor that differs, by name.
    """

    missing: Mapping[str, Shape]
    unexpected: Mapping[str, Shape]
    misshapen: Mapping[str, tuple[Shape, Shape]]

    @classmethod
    def between(cls, module: nn.Module, weights: Mapping[str, Tensor]) -> Misfit:
        """Return how `weights` differ from what `module` holds."""
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        return cls.of(wanted, {name: tuple(tensor.shape) for name, tensor in weights.items()})

    @classmethod
    def of(cls, wanted: Mapping[str, Shape], got: Mapping[str, Shape]) -> Misfit:
        """Return how tensors of the shapes in `got` differ from those in `wanted`, by name."""
        return cls(
            missing={
                name: shape
                for name, shape in wanted.items()
                if name not in got and not name.endswith(COUNTER)
            },
            unexpected={name: shape for name, shape in got.items() if name not in wanted},
            misshapen={
                name: (got[name], shape)
                for name, shape in wanted.items()
                if name in got and got[name] != shape
            },
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def is_of_shapes(self) -> bool:
        """Whether the names are all there, and only shapes differ."""
        return not (self.missing or self.unexpected)

    @property
    def count(self) -> int:
        """How many tensors differ."""
        return len(self.missing) + len(self.unexpected) + len(self.misshapen)

    def refuse(
        self,
        where: str,
        module: nn.Module,
        image_size: tuple[int, int] | None = None,
        hints: Iterable[str] = (),
    ) -> None:
        """Raise an error with all that differs, in one line.

        Args:
            where: how the message names the weights.
            module: that they were for.
            image_size: (height, width) that their positions are for, where it is known.
            hints: options that help, where they are known.

        Raises:
            ArtifactError: anything does.
        """
        shapes = [
            f"{name} {got} where {wanted} was expected"
            for name, (got, wanted) in self.misshapen.items()
        ]
        found = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": shapes}
        if any(found.values()):
            lists = [_listed(kind, names) for kind, names in found.items() if names]
            hints = [*hints] or self._hints(module, image_size)
            advice = f". Add {' '.join(hints)}" if hints else ""
            raise ArtifactError(f"{where} does not fit the model: {'; '.join(lists)}{advice}")

    def _hints(self, module: nn.Module, image_size: tuple[int, int] | None) -> list[str]:
        """Return the options with which the weights would fit, where options are all it takes."""
        if self.misshapen and not self.missing and not self.unexpected:
            return self._size_hints(module, image_size)
        if self.unexpected and not self.missing and not self.misshapen:
            classes = _head_rows(self.unexpected)
            return [f"--num-classes {classes}"] if classes else []
        if self.missing and not self.unexpected and not self.misshapen and _head_rows(self.missing):
            return ["--num-classes 0 (for features: no head fits)"]
        return []

    def _size_hints(self, module: nn.Module, image_size: tuple[int, int] | None) -> list[str]:
        positions = {
            name: got
            for name, (got, wanted) in self.misshapen.items()
            if len(got) == len(wanted) == 3 and (got[0], got[2]) == (wanted[0], wanted[2])
        }
        head = {
            name: got
            for name, (got, wanted) in self.misshapen.items()
            if name not in positions and got[1:] == wanted[1:]
        }
        if len(positions) + len(head) < len(self.misshapen):
            return []  # another architecture: no option helps
        hints = []
        if head:
            classes = _head_rows(head)
            if not classes:
                return []
            hints.append(f"--num-classes {classes}")
        sizes = (
            _image_sizes(positions, self.misshapen, module) if image_size is None else [image_size]
        )
        if positions and sizes:
            sides = [f"{h}" if h == w else f"{h},{w}" for h, w in sizes]
            hints.append(
                f"--image-size {' or '.join(sides)} (of the checkpoint; another size interpolates)"
            )
        return hints


def _image_sizes(
    positions: Mapping[str, Shape],
    misshapen: Mapping[str, tuple[Shape, Shape]],
    module: nn.Module,
) -> list[tuple[int, int]]:
    """Return the image sizes that `positions` may be for: the square one, else the nearest."""
    patch = patch_size(module)
    if not positions or not patch:
        return []
    name, got = next(iter(positions.items()))
    num_wanted = misshapen[name][1][1]
    num_prefix = num_wanted - grid_side(num_wanted) ** 2
    num_patches = got[1] - (num_prefix if num_prefix < MAX_PREFIX else 0)
    side = math.isqrt(max(num_patches, 0))
    if side < 1:
        return []
    rows = next(r for r in range(side, 0, -1) if num_patches % r == 0)
    sizes = [
        (num_patches // rows * patch, rows * patch),
        (rows * patch, num_patches // rows * patch),
    ]
    return sizes[:1] if side * side == num_patches else sizes


def _listed(kind: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names) - _MAX_LISTED} more)" if len(names) > _MAX_LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_MAX_LISTED])}{more}"


def _head_rows(shapes: Mapping[str, Shape]) -> int | None:
    """Return N, the classes of a head, where `shapes` are (N, channels) and (N,) and no others."""
    rows = {shape[0] for shape in shapes.values() if shape}
    is_head = all(len(shape) in (1, 2) for shape in shapes.values()) and any(
        len(shape) == 2 for shape in shapes.values()
    )
    few = len(shapes) <= 4  # weight and bias, twice where the model is distilled
    return rows.pop() if is_head and few and len(rows) == 1 else None


def grid_side(num_tokens: int) -> int:
    """Return the patches along a square image's side; `num_tokens` may count prefix tokens."""
    return math.isqrt(num_tokens)


def patch_size(module: nn.Module) -> int | None:
    """Return a patch's side in pixels, the first convolution's kernel; None without one."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return int(layer.kernel_size[0])
    return None
