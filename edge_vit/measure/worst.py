"""The images where two predictions differ most: a bounded list, kept while images stream by."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edge_vit.data.clips import strip_of
from edge_vit.data.preprocess import UInt8Array
from edge_vit.measure.results import Disagreement

THUMBNAIL_PIXELS = 128
"""Longest side of a thumbnail."""

DRAWN_PIXELS = 256
"""Longest side of a picture in which predictions are drawn."""

WIDE_PIXELS, NUM_COLOURS = 584, 128
"""Longest side of pictures that stand side by side in one, and how many colours they have."""


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


def keep_worst(
    kept: tuple[Kept, ...],
    size: int,
    divergence: float,
    image: SeenImage,
    show: Callable[[], Disagreement],
) -> tuple[Kept, ...]:
    """Return `kept` with an image if it is among the `size` worst, worst first.

    Images without any divergence are left out; `show` is only called for what is kept.
    """
    if size == 0 or divergence <= 0:
        return kept
    if len(kept) == size and (-divergence, image.digest, image.name) >= kept[-1].rank:
        return kept
    return worst_of((*kept, Kept(image.index, image.digest, show())), size)


def worst_of(kept: Iterable[Kept], size: int) -> tuple[Kept, ...]:
    """Return the `size` worst of those that were kept in several parts, worst first."""
    return tuple(sorted(kept, key=lambda entry: entry.rank)[:size])


def thumbnail_png(pixels: UInt8Array) -> str:
    """Return uint8 (height, width, 3) RGB as PNG in base64, at most `THUMBNAIL_PIXELS` a side.

    Of a clip it is a strip of frames, each of them at most so large.
    """
    strip = strip_of(pixels)
    image = Image.fromarray(np.ascontiguousarray(strip))
    across = strip.shape[1] // pixels.shape[-2]
    image.thumbnail((THUMBNAIL_PIXELS * across, THUMBNAIL_PIXELS))
    return png_of(image)


def png_of(image: Image.Image) -> str:
    """Return `image` as PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
