"""The interface between the loop and a source of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_vit.camera.values import CaptureClock, SourceFormat
from edge_vit.data.preprocess import UInt8Array

PLAUSIBLE_NS = 10 * 10**9  # a driver's stamp that is older than this, or ahead, is of another clock


@dataclass(frozen=True, eq=False)
class Capture:
    """One picture, which belongs to the caller."""

    pixels: UInt8Array  # uint8 (height, width, 3) RGB
    captured_ns: int | None = None  # in `time.monotonic_ns`; None for when it was handed over
    clock: CaptureClock = "arrival"


class FrameSource:
    """A camera, a stream or a file, opened once. One thread uses it; `abort` is for others.

    Any class with these members is one.
    """

    def open(self) -> SourceFormat:
        """Return what it gives, once it can be read.

        Raises:
            SourceError: it cannot be opened now; it may be later.
            EdgeVitError: it never can: the address is wrong, a package or a file is missing.
        """
        raise NotImplementedError

    def read(self) -> Capture | None:
        """Return the next frame, waited for; None at the end.

        Raises:
            SourceError: it was lost.
            ImageError: this frame cannot be decoded; the next one may.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Make `open` or `read`, in whatever thread, raise soon; closes nothing."""

    def close(self) -> None:
        """Free what it holds, in whatever state it is."""


@dataclass(frozen=True)
class SourceMaker:
    """Makes a source, not open yet, as often as it is lost.

    Of a live source the newest frame counts, and it is opened anew when it was lost; else every
    frame counts, and it is read once.
    """

    name: str  # its address without a password
    is_live: bool
    make: Callable[[], FrameSource]
