"""Sources that need no other package: a folder of images, and a moving pattern."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np

from edge_vit.camera.sources.address import DEFAULT_TIMEOUT_S, SourceAddress
from edge_vit.camera.sources.source import Capture, FrameSource
from edge_vit.camera.threads import SYSTEM_CLOCK, Clock
from edge_vit.camera.values import SourceFormat
from edge_vit.data.folder import list_folder
from edge_vit.data.images import load_image
from edge_vit.errors import SourceError

_LOG = logging.getLogger(__name__)
_BAR = 16  # pixels


class FolderSource(FrameSource):
    """Every image of a folder, in the order of their paths, each decoded when its turn comes."""

    def __init__(self, address: SourceAddress, timeout_s: float, clock: Clock) -> None:
        self._path = Path(address.target)
        self._is_aborted = False

    def open(self) -> SourceFormat:
        """List the images; raises ImageError where there are none."""
        listing = list_folder(self._path)
        for note in listing.notes:
            _LOG.info("%s", note)
        self._files = iter([self._path / name for name in listing.paths])
        return SourceFormat(0, 0, 0, "as Pillow decodes it")

    def read(self) -> Capture | None:
        """Return the next image; raises ImageError for one that cannot be decoded."""
        if self._is_aborted:
            raise SourceError(f"source {self._path} was closed")
        file = next(self._files, None)
        return None if file is None else Capture(load_image(file))

    def abort(self) -> None:
        """Let no other image be read."""
        self._is_aborted = True


class PatternSource(FrameSource):
    """``test://``: colours that shift, with a bar that moves, each frame unlike the one before.

    Options: ``width``, ``height``, ``rate`` and, where it shall end, ``count``.
    """

    def __init__(
        self,
        address: SourceAddress,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._width, self._height = address.number("width", 640), address.number("height", 480)
        self._rate, self._count = address.number("rate", 30), address.number("count", 0)
        self._clock = clock
        self._changed = threading.Condition()
        self._is_aborted = False
        self._number = 0
        self._start_ns = 0

    def open(self) -> SourceFormat:
        """Draw the picture that is shifted."""
        ramp = np.linspace(0, 255, self._width + self._height, dtype=np.uint8)
        diagonal = np.lib.stride_tricks.sliding_window_view(ramp, self._width)[: self._height]
        picture = np.stack([diagonal, diagonal[:, ::-1], diagonal[::-1]], axis=2)
        # Twice as wide, so that every shift of it is one copy.
        self._picture = np.concatenate([picture, picture], axis=1)
        self._start_ns = self._clock.now_ns()
        return SourceFormat(self._width, self._height, self._rate, "made in RGB")

    def read(self) -> Capture | None:
        """Return the next frame when it is due, late ones at once."""
        if self._count and self._number >= self._count:
            return None
        due_ns = self._start_ns + self._number * 10**9 // self._rate
        with self._changed:
            while self._clock.now_ns() < due_ns and not self._is_aborted:
                self._clock.wait(self._changed, due_ns)
            if self._is_aborted:
                raise SourceError("source test:// was closed")
        shift = self._number % self._width
        pixels = self._picture[:, shift : shift + self._width].copy()
        left = 4 * self._number % max(1, self._width - _BAR)
        pixels[:, left : left + _BAR] = self._number % 256
        self._number += 1
        return Capture(pixels, due_ns, "driver")

    def abort(self) -> None:
        """End the wait for the next frame."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()
