"""Perceptual signatures: one picture is found again when encoded anew, resized or brightened.

A signature is a thumbnail: 16 x 16 means of the luma and 4 x 4 means of both colour differences,
one byte each. Photographs that were saved as JPEG (quality 30 and above), halved or enlarged differ
by a root mean square of less than one level of the luma, the two most similar of scikit-learn's
1,797 digits by eight. The limits lie between, so that different pictures stay different ones.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_vit.data.preprocess import UInt8Array

_LUMA, _COLOUR = 16, 4
_CELLS = _LUMA * _LUMA
SIGNATURE_BYTES = _CELLS + 2 * _COLOUR * _COLOUR

MAX_SHIFT = 6
"""Levels of 255 by which the whole picture may be brighter or darker."""
MAX_RMS = 3.5
"""Root mean square of what is left of the luma's difference, in levels."""
MAX_RMS_SHARE = 0.15
"""The same as a share of the luma's own spread: a faint picture has faint differences."""
MIN_RMS = 0.75
"""What rounding to whole levels makes of no difference at all."""
MAX_CELL, MAX_COLOUR = 12, 16
"""Largest difference of one cell, in levels."""

FLAT_SHIFT, FLAT_COLOUR = 2, 4
"""The limits of shift and colour where the luma has no spread: a plain colour is all there is to
tell such pictures apart by. Encoding it anew moves it by no more."""

_BLOCKS = 4
_BLOCK_REACH = MAX_SHIFT + MAX_CELL + 1
"""How far the mean of a block of 4 x 4 cells is, at most, where the whole is within limits."""
_REACH = int(MAX_SHIFT + 2 * MAX_RMS) + 1
"""The same of a quadrant: no root mean square lets a quarter of the cells differ by more."""
_WIDTH = 64

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Place = tuple[int, ...]


def signature(pixels: UInt8Array) -> bytes:
    """Return the signature of a uint8 (height, width, 3) RGB image, `SIGNATURE_BYTES` bytes."""
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("YCbCr")
    luma, blue, red = image.split()
    parts = [luma.resize((_LUMA, _LUMA), Image.Resampling.BOX)]
    parts += [c.resize((_COLOUR, _COLOUR), Image.Resampling.BOX) for c in (blue, red)]
    return b"".join(part.tobytes() for part in parts)


def signature_text(value: bytes) -> str:
    """Return a signature as text, for JSON."""
    return base64.b64encode(value).decode("ascii")


def signature_from_text(text: str) -> bytes:
    """Return the signature that `signature_text` wrote.

    Raises:
        ValueError: it is none.
    """
    value = base64.b64decode(text, validate=True)
    if len(value) != SIGNATURE_BYTES:
        raise ValueError(f"signature: got {len(value)} bytes, expected {SIGNATURE_BYTES}")
    return value


class SignatureIndex:
    """Signatures that are searched for one that shows the same picture.

    A signature is looked up among those whose quadrants are about as bright, which leaves out none
    that is within the limits.
    """

    def __init__(self, signatures: Iterable[bytes] = ()) -> None:
        self._buckets: dict[_Place, _Bucket] = {}
        self._num_added = 0
        for each in signatures:
            self.add(each)

    def __len__(self) -> int:
        return self._num_added

    def add(self, value: bytes) -> int:
        """Add a signature and return its number, counted from 0."""
        row = np.frombuffer(value, np.uint8)
        place = tuple(int(mean // _WIDTH) for mean in _quadrants(row))
        if place not in self._buckets:
            self._buckets[place] = _Bucket()
        self._buckets[place].add(self._num_added, row)
        self._num_added += 1
        return self._num_added - 1

    def find(self, value: bytes) -> int | None:
        """Return the number of the first one added that shows the same picture, or None."""
        row = np.frombuffer(value, np.uint8)
        ranges = [
            range(int((mean - _REACH) // _WIDTH), int((mean + _REACH) // _WIDTH) + 1)
            for mean in _quadrants(row)
        ]
        near = (self._buckets.get(place) for place in itertools.product(*ranges))
        means = _block_means(row)
        found = (bucket.find(row, means) for bucket in near if bucket is not None)
        return min((number for number in found if number is not None), default=None)


class _Bucket:
    """Signatures that are about as bright, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._rows: _Bytes = np.empty((4, SIGNATURE_BYTES), np.uint8)
        self._blocks: _Floats = np.empty((4, _BLOCKS * _BLOCKS), np.float32)

    def add(self, number: int, row: _Bytes) -> None:
        count = len(self._numbers)
        if count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._blocks = np.concatenate([self._blocks, np.empty_like(self._blocks)])
        self._rows[count], self._blocks[count] = row, _block_means(row)
        self._numbers.append(number)

    def find(self, row: _Bytes, means: _Floats) -> int | None:
        count = len(self._numbers)
        far = np.abs(self._blocks[:count] - means).max(axis=1)
        (near,) = np.nonzero(far <= _BLOCK_REACH)
        if not len(near):
            return None
        same = _is_same(self._rows[near], row)
        return self._numbers[near[int(np.argmax(same))]] if same.any() else None


def is_same_picture(first: bytes, second: bytes) -> bool:
    """Return whether two signatures show the same picture."""
    rows = np.frombuffer(first, np.uint8)[None]
    return bool(_is_same(rows, np.frombuffer(second, np.uint8))[0])


def _is_same(rows: _Bytes, row: _Bytes) -> NDArray[np.bool_]:
    """Whether each of `rows` (many, bytes) shows the picture of `row` (bytes,), (many,)."""
    difference = rows.astype(np.float32) - row
    luma, colour = difference[:, :_CELLS], difference[:, _CELLS:]
    shift = luma.mean(axis=1)
    rest = luma - shift[:, None]
    rms = np.sqrt(np.square(rest).mean(axis=1))
    spread = np.minimum(rows[:, :_CELLS].std(axis=1), row[:_CELLS].std())
    allowed = np.minimum(MAX_RMS, np.maximum(MIN_RMS, MAX_RMS_SHARE * spread))
    same: NDArray[np.bool_] = (
        (np.abs(shift) <= np.clip(spread, FLAT_SHIFT, MAX_SHIFT))
        & (rms <= allowed)
        & (np.abs(rest).max(axis=1) <= MAX_CELL)
        & (np.abs(colour).max(axis=1) <= np.clip(2 * spread, FLAT_COLOUR, MAX_COLOUR))
    )
    return same


def _block_means(row: _Bytes) -> _Floats:
    """Means of the 4 x 4 blocks of the luma, (16,)."""
    cells = row[:_CELLS].reshape(_BLOCKS, _LUMA // _BLOCKS, _BLOCKS, _LUMA // _BLOCKS)
    means: _Floats = cells.mean(axis=(1, 3), dtype=np.float32).ravel()
    return means


def _quadrants(row: _Bytes) -> list[float]:
    """Means of the four quadrants of the luma."""
    cells = row[:_CELLS].reshape(2, _LUMA // 2, 2, _LUMA // 2)
    means: list[float] = cells.mean(axis=(1, 3)).ravel().tolist()
    return means
