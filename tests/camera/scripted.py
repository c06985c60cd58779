"""A clock that only a script moves, and answers made by hand."""

from __future__ import annotations

import threading

import numpy as np

from edge_vit.answers import top_answers
from edge_vit.camera.values import CameraAnswer, Frame, Stamps
from edge_vit.runtime.predictor import Prediction


class ScriptedClock:
    """Time that passes when `advance` is called; who waits for an instant is woken then."""

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self._now_ns = start_ns
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Condition]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def unix_ns(self) -> int:
        return self._now_ns + 1_700_000_000 * 10**9

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_ns += round(seconds * 1e9)
            due = [pair for pair in self._waiting if pair[0] <= self._now_ns]
            self._waiting = [pair for pair in self._waiting if pair[0] > self._now_ns]
        for _, condition in due:
            with condition:
                condition.notify_all()

    def wait(self, condition: threading.Condition, until_ns: int | None = None) -> None:
        if until_ns is None:
            condition.wait()
            return
        pair = (until_ns, condition)
        with self._lock:
            if until_ns <= self._now_ns:
                return
            self._waiting.append(pair)
        condition.wait()
        with self._lock:
            if pair in self._waiting:
                self._waiting.remove(pair)


def make_answer(number: int, *, is_live: bool = True) -> CameraAnswer:
    """Return the answer of a frame that was made by hand."""
    pixels = np.full((4, 4, 3), number % 256, dtype=np.uint8)
    output = np.eye(10, dtype=np.float32)[number % 10]
    stamps = Stamps(number * 1000, *range(number * 1000 + 1, number * 1000 + 7))
    frame = Frame(number, "test://", pixels, stamps, is_live)
    return CameraAnswer(frame, Prediction(f"frame {number}", top_answers(output)), output)
