"""Perceptual signatures: one picture is found again when encoded anew, resized or brightened.

A signature is a thumbnail: 16 x 16 means of the luma and 4 x 4 means of both colour differences,
one byte each. Photographs that were saved as JPEG (quality 30 and above), halved or enlarged differ
by a root mean square of less than one level of the luma, the two most similar of scikit-learn's
1,797 digits by eight. The limits lie between, so that different pictures stay different ones.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_vit.data.clips import tiles_of
from edge_vit.data.preprocess import UInt8Array
from edge_vit.spec.samples import is_sample, picture_of

_LUMA, _COLOUR, _BLOCKS = 16, 4, 4
_CELLS = _LUMA * _LUMA
SIGNATURE_BYTES = _CELLS + 2 * _COLOUR * _COLOUR

# Limits in levels of 255: of the whole picture's brightness, of the root mean square of what is
# left of the luma's difference, of single cells. A faint picture has faint differences, hence the
# share of the luma's own spread; a plain colour has none, and its colour is all there is to it.
_MAX_SHIFT, _FLAT_SHIFT = 6, 2
_MAX_RMS, _RMS_SHARE, _MIN_RMS = 3.5, 0.15, 0.75
_MAX_CELL, _MAX_COLOUR, _FLAT_COLOUR = 12, 16, 4
_BLOCK_REACH = _MAX_SHIFT + _MAX_CELL + 1
"""Largest difference of the means of 4 x 4 cells where the whole is within limits."""

_Bytes = NDArray[np.uint8]


def signature(pixels: UInt8Array) -> bytes:
    """Return the signature of a uint8 (height, width, 3) RGB image, `SIGNATURE_BYTES` bytes.

    Of a clip it is that of four frames in two rows: two clips are alike where all of them are. Of a
    sample it is that of the picture of its first field.
    """
    pixels = picture_of(pixels) if is_sample(pixels) else tiles_of(pixels)
    luma, *colours = Image.fromarray(np.ascontiguousarray(pixels)).convert("YCbCr").split()
    parts = [luma.resize((_LUMA, _LUMA), Image.Resampling.BOX)]
    parts += [c.resize((_COLOUR, _COLOUR), Image.Resampling.BOX) for c in colours]
    return b"".join(part.tobytes() for part in parts)


def signature_text(value: bytes) -> str:
    """Return a signature as text, for JSON."""
    return base64.b64encode(value).decode("ascii")


def signature_from_text(text: str) -> bytes:
    """Return the signature that `signature_text` wrote, or raise ValueError."""
    value = base64.b64decode(text, validate=True)
    if len(value) != SIGNATURE_BYTES:
        raise ValueError(f"signature: got {len(value)} bytes, expected {SIGNATURE_BYTES}")
    return value


def luma_and_colours(value: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the means that a signature holds, of luma and of both colour differences, 0 to 255."""
    numbers = np.frombuffer(value, np.uint8).astype(np.float64)
    return numbers[:_CELLS], numbers[_CELLS:]


class SignatureIndex:
    """Signatures that are searched for one that shows the same picture."""

    def __init__(self, signatures: Iterable[bytes] = ()) -> None:
        self._count = 0
        self._rows: _Bytes = np.empty((64, SIGNATURE_BYTES), np.uint8)
        self._blocks: NDArray[np.int16] = np.empty((64, _BLOCKS * _BLOCKS), np.int16)
        for each in signatures:
            self.add(each)

    def __len__(self) -> int:
        return self._count

    def add(self, value: bytes) -> int:
        """Add a signature and return its number, counted from 0."""
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._blocks = np.concatenate([self._blocks, np.empty_like(self._blocks)])
        row = np.frombuffer(value, np.uint8)
        self._rows[self._count], self._blocks[self._count] = row, _block_means(row)
        self._count += 1
        return self._count - 1

    def find(self, value: bytes) -> int | None:
        """Return the number of the first one added that shows the same picture, or None."""
        row = np.frombuffer(value, np.uint8)
        far = np.abs(self._blocks[: self._count] - _block_means(row))
        (near,) = np.nonzero((far <= _BLOCK_REACH).all(axis=1))
        same = near[_is_same(self._rows[near], row)]
        return int(same[0]) if len(same) else None


def _is_same(rows: _Bytes, row: _Bytes) -> NDArray[np.bool_]:
    """Whether each of `rows` (many, bytes) shows the picture of `row` (bytes,), (many,)."""
    difference = rows.astype(np.float32) - row
    luma, colour = difference[:, :_CELLS], difference[:, _CELLS:]
    shift = luma.mean(axis=1)
    rest = luma - shift[:, None]
    rms = np.sqrt(np.square(rest).mean(axis=1))
    spread = np.minimum(rows[:, :_CELLS].std(axis=1), row[:_CELLS].std())
    allowed = np.minimum(_MAX_RMS, np.maximum(_MIN_RMS, _RMS_SHARE * spread))
    same: NDArray[np.bool_] = (
        (np.abs(shift) <= np.clip(spread, _FLAT_SHIFT, _MAX_SHIFT))
        & (rms <= allowed)
        & (np.abs(rest).max(axis=1) <= _MAX_CELL)
        & (np.abs(colour).max(axis=1) <= np.clip(2 * spread, _FLAT_COLOUR, _MAX_COLOUR))
    )
    return same


def _block_means(row: _Bytes) -> NDArray[np.int16]:
    """Means of the 4 x 4 blocks of the luma, (16,)."""
    cells = row[:_CELLS].reshape(_BLOCKS, _LUMA // _BLOCKS, _BLOCKS, _LUMA // _BLOCKS)
    means: NDArray[np.int16] = np.rint(cells.mean(axis=(1, 3))).ravel().astype(np.int16)
    return means
