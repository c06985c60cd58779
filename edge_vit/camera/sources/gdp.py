"""The GStreamer Data Protocol: buffers with their timestamps, and their format, on a pipe.

Version 1.0, as GStreamer's ``gdppay`` writes it: a header of 62 bytes, then the payload. Numbers
are big-endian. See the GStreamer sources, gst/gdp/dataprotocol.c.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import SourceError

_HEADER_SIZE = 62
_HEADER = struct.Struct(">BBBxHIQ")  # version, flags, padding, type, length, timestamp
_BUFFER, _CAPS = 1, 2
_NO_TIME = 2**64 - 1
_MAX_PAYLOAD = 512 * 2**20


@dataclass(frozen=True)
class Caps:
    """The format of raw frames: size in pixels, frames a second (0 where the rate varies)."""

    width: int
    height: int
    rate: float

    @property
    def stride(self) -> int:
        """Bytes of one row of RGB: GStreamer rounds them up to a multiple of 4."""
        return (self.width * 3 + 3) // 4 * 4


@dataclass(frozen=True, eq=False)
class GdpBuffer:
    """A payload, and its presentation time since the pipeline began, None if it has none."""

    data: bytearray
    time_ns: int | None


def read_packet(pipe: BinaryIO) -> GdpBuffer | Caps | None:
    """Return the next frame or format, waited for, events left out; None at the end."""
    while header := _read_exactly(pipe, _HEADER_SIZE):
        major, minor, _, kind, length, time_ns = _HEADER.unpack_from(header)
        if (major, minor) != (1, 0) or length > _MAX_PAYLOAD:
            raise SourceError("gdppay: got bytes that are not its protocol, version 1.0")
        payload = _read_exactly(pipe, length) if length else bytearray()
        if payload is None:
            raise SourceError("gdppay: broke off within a frame")
        if kind == _BUFFER:
            return GdpBuffer(payload, None if time_ns == _NO_TIME else time_ns)
        if kind == _CAPS:
            return parse_caps(payload.rstrip(b"\0").decode("utf-8", "replace"))
    return None


def parse_caps(text: str) -> Caps:
    """Return the format that `text`, such as ``video/x-raw, width=(int)640, ...``, describes."""
    fields = dict(re.findall(r"([\w-]+)=\(\w+\)([^,;\s]+)", text))
    rate, _, per = fields.get("framerate", "0/1").partition("/")
    try:
        if not text.startswith("video/x-raw") or fields["format"] != "RGB":
            raise ValueError
        return Caps(int(fields["width"]), int(fields["height"]), int(rate) / int(per))
    except (KeyError, ValueError, ZeroDivisionError):
        raise SourceError(f"gdppay: got {text[:80]!r}, expected raw RGB video") from None


def to_pixels(buffer: GdpBuffer, caps: Caps) -> UInt8Array:
    """Return a frame as uint8 (height, width, 3) RGB."""
    expected = caps.stride * caps.height
    if len(buffer.data) != expected:
        raise SourceError(f"gdppay: got a frame of {len(buffer.data)} bytes, expected {expected}")
    rows = np.frombuffer(buffer.data, dtype=np.uint8).reshape(caps.height, caps.stride)
    pixels = rows[:, : caps.width * 3].reshape(caps.height, caps.width, 3)
    return np.ascontiguousarray(pixels)


def _read_exactly(pipe: BinaryIO, count: int) -> bytearray | None:
    """`count` bytes, None where the pipe ends before the first; SourceError within them."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = pipe.readinto(view[done:])  # type: ignore[attr-defined]  # of buffered readers
        if not got:
            if done:
                raise SourceError("gdppay: broke off within a frame")
            return None
        done += got
    return data
