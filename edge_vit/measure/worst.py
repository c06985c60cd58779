"""The images where two predictions differ most: a bounded list, kept while images stream by."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edge_vit.data.preprocess import UInt8Array
from edge_vit.measure.results import Disagreement

THUMBNAIL_PIXELS = 128
"""Longest side of a thumbnail."""

DRAWN_PIXELS = 256
"""Longest side of a picture in which predictions are drawn."""


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as the model saw it: uint8 (height, width, 3) RGB, preprocessed, and its digest.

    `index` is its place in the data, `truth` what the data says beside a class, or instead of one.
    """

    index: int
    name: str
    pixels: UInt8Array
    label: int | None
    digest: str
    truth: object = None


@dataclass(frozen=True)
class Kept:
    """An image that is among the worst so far, by its place in the data and its digest."""

    index: int
    digest: str
    shown: Disagreement

    @property
    def rank(self) -> tuple[float, str, str]:
        """Worst first, equal ones by what they are: whatever the order that they came in."""
        return (-self.shown.divergence, self.digest, self.shown.image)


class WorstImages:
    """The `size` images of largest divergence among all offered; those without any are left out."""

    def __init__(self, size: int, kept: Sequence[Kept] = ()) -> None:
        self._size = size
        self._kept = worst_of(kept, size)

    def offer(self, divergence: float, image: SeenImage, show: Callable[[], Disagreement]) -> None:
        """Keep the image if it is among the worst so far; only then `show` is called."""
        if self._size == 0 or divergence <= 0:
            return
        rank = (-divergence, image.digest, image.name)
        if len(self._kept) == self._size and rank >= self._kept[-1].rank:
            return
        entry = Kept(image.index, image.digest, show())
        self._kept = worst_of((*self._kept, entry), self._size)

    def worst_first(self) -> tuple[Kept, ...]:
        """Return what was kept, largest divergence first."""
        return self._kept


def worst_of(kept: Iterable[Kept], size: int) -> tuple[Kept, ...]:
    """Return the `size` worst of those that were kept in several parts, worst first."""
    return tuple(sorted(kept, key=lambda entry: entry.rank)[:size])


def thumbnail_png(pixels: UInt8Array) -> str:
    """Return uint8 (height, width, 3) RGB as PNG in base64, at most `THUMBNAIL_PIXELS` a side."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return png_of(image)


def png_of(image: Image.Image) -> str:
    """Return `image` as PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
