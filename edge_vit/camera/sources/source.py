"""What the loop asks of a source of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_vit.camera.values import CaptureClock, SourceFormat
from edge_vit.data.preprocess import UInt8Array


@dataclass(frozen=True, eq=False)
class Capture:
    """One picture as a source hands it over.

    Attributes:
        pixels: uint8 (height, width, 3) RGB; belongs to the caller.
        captured_ns: when it was taken, in `time.monotonic_ns`; None for when it was handed over.
        clock: whose stamp that is.
    """

    pixels: UInt8Array
    captured_ns: int | None = None
    clock: CaptureClock = "arrival"


class FrameSource(Protocol):
    """A camera, a stream or a file. One thread opens, reads and closes it; `abort` is for others.

    It is opened once; to open it again, make another.
    """

    def open(self) -> SourceFormat:
        """Return what it gives, once it can be read.

        Raises:
            SourceError: it cannot be opened now; it may be later.
            EdgeVitError: it never can: the address is wrong, a package or a file is missing.
        """
        ...

    def read(self) -> Capture | None:
        """Return the next frame, waited for; None at the end.

        Raises:
            SourceError: it was lost.
            ImageError: this frame cannot be decoded; the next one may.
        """
        ...

    def abort(self) -> None:
        """Make `open` or `read`, in whatever thread, raise soon; closes nothing."""
        ...

    def close(self) -> None:
        """Free what it holds, in whatever state it is."""
        ...


@dataclass(frozen=True)
class SourceMaker:
    """A source that can be made as often as it is lost.

    Attributes:
        name: its address without a password.
        is_live: whether it goes on without us: the newest frame counts, and it is opened anew when
            it was lost. Else every frame counts, and it is read once.
        make: returns a source that is not open yet.
    """

    name: str
    is_live: bool
    make: Callable[[], FrameSource]
