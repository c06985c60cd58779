"""Outputs that keep what is made of them: several measures of one batch decode it once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from edge_vit.tasks.numerics import FloatArray

T = TypeVar("T")


class KeptOutputs(dict[str, FloatArray]):
    """Outputs by name, and beside them what `once` made of them, for as long as they live."""

    def __init__(self, outputs: Any) -> None:
        super().__init__(outputs)
        self.made: dict[Hashable, Any] = {}


def once(outputs: Any, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives of `outputs`; of `KeptOutputs` it is made once for each `key`."""
    if not isinstance(outputs, KeptOutputs):
        return make()
    if key not in outputs.made:
        outputs.made[key] = make()
    found: T = outputs.made[key]
    return found
