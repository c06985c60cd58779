"""The newest picture of every source as JPEG, made once for all who watch, and only then."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator

import numpy as np

from edge_vit.camera.sinks.drawing import draw_prediction, to_jpeg
from edge_vit.camera.values import CameraPrediction

MAX_RATE = 15.0
MAX_SIDE = 960
BOUNDARY = "edge-vit-frame"
_WAIT_S = 5.0
_NONE = (-1, b"")

Key = tuple[str, bool]
"""A source, and whether its answer is drawn on the picture."""


class Pictures:
    """Takes every answer, keeps the newest of each source, and makes pictures for watchers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._predictions: dict[str, CameraPrediction] = {}
        self._jpegs: dict[Key, tuple[int, bytes]] = {}  # number of the picture, picture
        self._made_s: dict[Key, float] = {}
        self._watchers: Counter[Key] = Counter()
        self._is_closed = False

    def add(self, prediction: CameraPrediction) -> None:
        """Keep `answer`, and make the pictures of its source that are watched."""
        source, now_s = prediction.frame.source, self._clock()
        with self._changed:
            self._predictions[source] = prediction
            due = [
                key
                for key in ((source, False), (source, True))
                if self._watchers[key] and now_s - self._made_s.get(key, -1e9) >= 1 / MAX_RATE
            ]
        for key in due:
            self._put(key, _make(prediction, is_drawn=key[1]), now_s)

    def sources(self) -> tuple[str, ...]:
        """Return the sources that an answer was seen of, in the order of their first."""
        with self._changed:
            return tuple(self._predictions)

    def newest(self, source: str) -> CameraPrediction | None:
        """Return the newest answer of `source`."""
        with self._changed:
            return self._predictions.get(source)

    def snapshot(self, key: Key) -> bytes | None:
        """Return the newest picture; None where there is none yet."""
        prediction = self.newest(key[0])
        return None if prediction is None else _make(prediction, is_drawn=key[1])

    def stream(self, key: Key) -> Generator[bytes, None, None]:
        """Yield picture after picture as the parts of ``multipart/x-mixed-replace``.

        A reader who is slow misses pictures. When nothing new comes the last is sent again, so that
        readers who have left are noticed. It ends when the server does.
        """
        with self._watched(key):
            number = self._jpegs.get(key, _NONE)[0]  # it may be old: it was not watched
            jpeg = self.snapshot(key)
            while not self._is_closed:
                if jpeg:
                    yield _part(jpeg)
                number, newer = self._wait(key, number)
                jpeg = newer or jpeg

    def close(self) -> None:
        """End every stream."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait(self, key: Key, seen: int) -> tuple[int, bytes]:
        """The newest picture, waited for while it is the one `seen`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._jpegs.get(key, _NONE)[0] > seen, _WAIT_S
            )
            return self._jpegs.get(key, _NONE)

    def _put(self, key: Key, jpeg: bytes, now_s: float) -> None:
        with self._changed:
            number = self._jpegs.get(key, _NONE)[0] + 1
            self._jpegs[key], self._made_s[key] = (number, jpeg), now_s
            self._changed.notify_all()

    @contextlib.contextmanager
    def _watched(self, key: Key) -> Iterator[None]:
        with self._changed:
            self._watchers[key] += 1
        try:
            yield
        finally:
            with self._changed:
                self._watchers[key] -= 1


def _make(prediction: CameraPrediction, *, is_drawn: bool) -> bytes:
    pixels = np.asarray(draw_prediction(prediction)) if is_drawn else prediction.frame.pixels
    return to_jpeg(pixels, MAX_SIDE)


def _part(jpeg: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"
