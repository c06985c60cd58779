"""Where weights and a model differ, and the option that would bring them together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edge_vit.errors import ArtifactError

Shape = tuple[int, ...]

_COUNTER = "num_batches_tracked"
"""How batch norms call a count of training steps, which older files do not have."""

_MAX_LISTED = 8
_MAX_PREFIX = 9  # tokens before the patches, class and registers, are fewer


@dataclass(frozen=True)
class Misfit:
    """What keeps weights from being loaded, by the tensors' names; empty where nothing does."""

    missing: Mapping[str, Shape]  # tensors that only the model has
    unexpected: Mapping[str, Shape]  # tensors that only the weights have
    misshapen: Mapping[str, tuple[Shape, Shape]]  # shape in the weights, in the model

    @classmethod
    def between(cls, module: nn.Module, weights: Mapping[str, object]) -> Misfit:
        """Return how `weights` differ from what `module` holds; what is no tensor has any shape."""
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        got = {
            name: tuple(value.shape) if isinstance(value, Tensor) else wanted.get(name, ())
            for name, value in weights.items()
        }
        return cls.of(wanted, got)

    @classmethod
    def of(cls, wanted: Mapping[str, Shape], got: Mapping[str, Shape]) -> Misfit:
        """Return how tensors of the shapes in `got` differ from those in `wanted`, by name."""
        absent = {name: shape for name, shape in wanted.items() if name not in got}
        shared = {name: (got[name], shape) for name, shape in wanted.items() if name in got}
        return cls(
            missing={n: shape for n, shape in absent.items() if not n.endswith(_COUNTER)},
            unexpected={name: shape for name, shape in got.items() if name not in wanted},
            misshapen={name: pair for name, pair in shared.items() if pair[0] != pair[1]},
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

        `where` is how the message names the weights, `image_size` what their positions are for,
        (height, width), and `hints` options that help, where these are known.
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
        if self.is_of_shapes:
            return self._size_hints(module, image_size)
        if self.misshapen or (self.missing and self.unexpected):
            return []
        classes = _head_rows(self.unexpected or self.missing)
        if self.missing:
            return ["--num-classes 0 (for features: no head fits)"] if classes else []
        return [f"--num-classes {classes}"] if classes else []

    def _size_hints(self, module: nn.Module, image_size: tuple[int, int] | None) -> list[str]:
        positions: dict[str, tuple[Shape, Shape]] = {}
        head: dict[str, Shape] = {}
        for name, (got, wanted) in self.misshapen.items():
            if len(got) == len(wanted) == 3 and (got[0], got[2]) == (wanted[0], wanted[2]):
                positions[name] = got, wanted
            elif got[1:] == wanted[1:]:
                head[name] = got
        classes = _head_rows(head)
        if len(positions) + len(head) < len(self.misshapen) or (head and not classes):
            return []  # another architecture: no option helps
        hints = [f"--num-classes {classes}"] if head else []
        sizes = [image_size] if image_size is not None else []
        if positions and not sizes:
            got, wanted = next(iter(positions.values()))
            sizes = _image_sizes(got[1], wanted[1], module)
        if positions and sizes:
            sides = [f"{h}" if h == w else f"{h},{w}" for h, w in sizes]
            hints.append(
                f"--image-size {' or '.join(sides)} (of the checkpoint; another size interpolates)"
            )
        return hints


def _image_sizes(num_tokens: int, num_wanted: int, module: nn.Module) -> list[tuple[int, int]]:
    """Return the image sizes that positions may be for: the square one, else the nearest.

    The model has `num_wanted` of them, of which those beyond a square are of no patch.
    """
    kernels = (m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d))
    patch = int(next(kernels, (0, 0))[0])
    num_prefix = num_wanted - math.isqrt(num_wanted) ** 2
    num_patches = num_tokens - (num_prefix if num_prefix < _MAX_PREFIX else 0)
    if not patch or num_patches < 1:
        return []
    short = next(r for r in range(math.isqrt(num_patches), 0, -1) if num_patches % r == 0)
    size = (num_patches // short * patch, short * patch)
    return [size] if size[0] == size[1] else [size, size[::-1]]


def _listed(kind: str, names: Iterable[str]) -> str:
    names = list(names)
    more = f", … ({len(names) - _MAX_LISTED} more)" if len(names) > _MAX_LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_MAX_LISTED])}{more}"


def _head_rows(shapes: Mapping[str, Shape]) -> int | None:
    """Return N, the classes of a head, where `shapes` are (N, channels) and (N,) and no others."""
    rows = {shape[0] for shape in shapes.values() if shape}
    ranks = {len(shape) for shape in shapes.values()}
    is_head = 2 in ranks and ranks <= {1, 2}
    few = len(shapes) <= 4  # weight and bias, twice where the model is distilled
    return rows.pop() if is_head and few and len(rows) == 1 else None
