"""The newest picture of every source as JPEG, made once for all viewers, and only for viewers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator

import numpy as np
from PIL import Image

from edge_vit.camera.sinks.drawing import draw_prediction, to_jpeg
from edge_vit.camera.values import CameraPrediction

MAX_RATE = 15.0
MAX_SIDE = 960
BOUNDARY = "edge-vit-frame"
_WAIT_S, _SOON_S = 5.0, 0.1
_NONE = (-1, b"")

Key = tuple[str, bool]  # a source, and whether its prediction is drawn on the picture


class Pictures:
    """Keeps the newest prediction of each source, and makes pictures for viewers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._newest: dict[str, CameraPrediction] = {}
        self._jpegs: dict[Key, tuple[int, bytes]] = {}  # number of the picture, picture
        self._made_s: dict[Key, float] = {}
        self._watchers: Counter[Key] = Counter()
        self._is_closed = False

    def add(self, prediction: CameraPrediction) -> None:
        """Keep `prediction`, and make the pictures of its source that are watched."""
        source, now_s = prediction.frame.source, self._clock()
        with self._changed:
            self._newest[source] = prediction
            due = [
                key
                for key in ((source, False), (source, True))
                if self._watchers[key] and now_s - self._made_s.get(key, -1e9) >= 1 / MAX_RATE
            ]
        for key in due:
            jpeg = _make(prediction, is_drawn=key[1])
            with self._changed:
                number = self._jpegs.get(key, _NONE)[0] + 1
                self._jpegs[key], self._made_s[key] = (number, jpeg), now_s
                self._changed.notify_all()

    def newest(self) -> dict[str, CameraPrediction]:
        """Return the newest prediction of each source, in the order of their first."""
        with self._changed:
            return dict(self._newest)

    def snapshot(self, key: Key) -> bytes:
        """Return the newest picture of a source that has one."""
        return _make(self.newest()[key[0]], is_drawn=key[1])

    def stream(self, key: Key) -> Generator[bytes, None, None]:
        """Yield picture after picture as the parts of ``multipart/x-mixed-replace``.

        A slow reader misses pictures. When nothing new comes soon the last is sent again, since
        browsers show a part when the next one begins; then every few seconds, so that readers who
        have left are noticed. Ends with `close`.
        """
        with self._changed:
            self._watchers[key] += 1
        try:
            number, is_new = self._jpegs.get(key, _NONE)[0], True
            jpeg = self.snapshot(key)  # what is kept may be old: it was not watched
            while not self._is_closed:
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                yield f"{head}\r\n\r\n".encode() + jpeg + b"\r\n"
                newest, newer = self._wait(key, number, _SOON_S if is_new else _WAIT_S)
                is_new = newest > number
                number, jpeg = (newest, newer) if is_new else (number, jpeg)
        finally:
            with self._changed:
                self._watchers[key] -= 1

    def close(self) -> None:
        """End every stream."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait(self, key: Key, seen: int, seconds: float) -> tuple[int, bytes]:
        """Wait for a newer picture than the one `seen`, so long at most; return the newest."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._jpegs.get(key, _NONE)[0] > seen, seconds
            )
            return self._jpegs.get(key, _NONE)


def _make(prediction: CameraPrediction, *, is_drawn: bool) -> bytes:
    if is_drawn:
        picture = draw_prediction(prediction)
    else:  # the page has the words beside it, but boxes belong into the picture
        picture = prediction.shown.draw(Image.fromarray(prediction.frame.pixels))
    return to_jpeg(np.asarray(picture), MAX_SIDE)
