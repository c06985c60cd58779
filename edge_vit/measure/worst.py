"""The images where two answers differ most: a bounded list, kept while images stream by."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edge_vit.measure.metrics import FloatArray
from edge_vit.preprocess import UInt8Array

THUMBNAIL_PIXELS = 128
"""Longest side of a thumbnail."""


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image as the model saw it.

    Attributes:
        index: its place in the data.
        name: its name in the data.
        pixels: uint8 (height, width, 3) RGB, preprocessed.
        label: index of its class, or None where it is not known.
    """

    index: int
    name: str
    pixels: UInt8Array
    label: int | None


@dataclass(frozen=True, eq=False)
class Divergent:
    """An image and both outputs for it, (values,) each."""

    divergence: float
    image: SeenImage
    reference: FloatArray
    candidate: FloatArray


class WorstImages:
    """The `size` images of largest divergence among all that were offered; of equal ones the first.

    Memory is that of `size` preprocessed images and outputs, however many are offered. Images
    without any divergence are left out.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Divergent]] = []

    def offer(
        self, divergence: float, image: SeenImage, reference: FloatArray, candidate: FloatArray
    ) -> None:
        """Keep the image if it is among the worst so far; outputs are copied."""
        if self._size == 0 or divergence <= 0:
            return
        rank = (divergence, -image.index)
        if len(self._heap) == self._size and rank < self._heap[0][:2]:
            return
        entry = (*rank, Divergent(divergence, image, reference.copy(), candidate.copy()))
        push: Callable[..., object] = (
            heapq.heappush if len(self._heap) < self._size else heapq.heappushpop
        )
        push(self._heap, entry)

    def worst_first(self) -> list[Divergent]:
        """Return what was kept, largest divergence first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def thumbnail_png(pixels: UInt8Array) -> str:
    """Return uint8 (height, width, 3) RGB as PNG in base64, at most `THUMBNAIL_PIXELS` a side."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
