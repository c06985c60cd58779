"""Models that return more than a tensor (batch, classes): the one that is meant is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

_LOGITS = "logits"
Key = str | int


class OneOutput(nn.Module):
    """A model whose output is taken out of a container, and flattened to (batch, classes).

    Args:
        model: takes images (batch, 3, height, width).
        key: of the tensor in what `model` returns; None where it returns one tensor.
    """

    def __init__(self, model: nn.Module, key: Key | None) -> None:
        super().__init__()
        self.model = model
        self.key = key

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (batch, classes) of `images`."""
        output = self.model(images)
        if self.key is not None:
            output = _entries(output)[self.key]
        flat: Tensor = output.reshape(output.shape[0], -1)
        return flat


def take_output(module: nn.Module, output: object) -> tuple[nn.Module, tuple[str, ...]]:
    """Return `module` so that it returns one tensor (batch, classes), and a sentence about it.

    Of a container it is the tensor called ``logits``, else the only one; of a tensor (batch,) or
    (batch, classes, 1, 1) the same without the dimensions of one. Anything else is left as it is.

    Args:
        module: the model.
        output: what it returned for one image.
    """
    key = None if isinstance(output, Tensor) else _key_of_logits(output)
    tensor = output if key is None else _entries(output)[key]
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return module, ()
    is_flat = tensor.ndim == 2
    if not is_flat and (tensor.ndim not in (1, 4) or tensor[0].numel() != max(tensor.shape)):
        return module, ()
    remarks = () if key is None else (f"of what the model returns, {key!r} is taken",)
    if key is None and is_flat:
        return module, ()
    return OneOutput(module, key), remarks


def _entries(output: object) -> Mapping[Any, Any]:
    """Return what lies in a container by its name or place; nothing where `output` is none."""
    if isinstance(output, Mapping):
        return output
    if dataclasses.is_dataclass(output):
        return vars(output)
    if not isinstance(output, Sequence):
        return {}
    names: Iterable[Key] = getattr(output, "_fields", range(len(output)))
    return dict(zip(names, output, strict=True))


def _key_of_logits(output: object) -> Key | None:
    tensors = [key for key, value in _entries(output).items() if isinstance(value, Tensor)]
    if _LOGITS in tensors:
        return _LOGITS
    return tensors[0] if len(tensors) == 1 else None
