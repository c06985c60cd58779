"""A clock that only a script moves, sources and sinks that do what a test says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from decoding import predict

from edge_vit.camera.sources.source import Capture, SourceMaker
from edge_vit.camera.summary import CameraSummary
from edge_vit.camera.values import CameraPrediction, Frame, SourceFormat, Stamps
from edge_vit.errors import SourceError
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output


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

    @contextlib.contextmanager
    def passing(self, speed: float = 100.0) -> Iterator[None]:
        """Let time pass by itself, `speed` times as fast as outside, for the time of a block."""
        done = threading.Event()

        def tick() -> None:
            while not done.wait(0.001):
                self.advance(0.001 * speed)

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

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


def make_prediction(
    number: int, *, is_live: bool = True, source: str = "test://"
) -> CameraPrediction:
    """Return the answer of a frame that was made by hand."""
    pixels = np.full((4, 4, 3), number % 256, dtype=np.uint8)
    output = np.eye(10, dtype=np.float32)[number % 10]
    stamps = Stamps(number * 1000, *range(number * 1000 + 1, number * 1000 + 7))
    frame = Frame(number, source, pixels, stamps, is_live)
    return CameraPrediction(
        frame, predict(tiny_spec(), output, image=f"frame {number}"), {"logits": output[None]}
    )


class ScriptedSource:
    """A source that does what a list says: a frame for a number, an error that is raised.

    Args:
        events: an iterator that several openings of one source share.
        clock: moved on by `interval_s` for every frame.
    """

    def __init__(self, events: Iterator[object], clock: ScriptedClock, interval_s: float) -> None:
        self._events, self._clock, self._interval_s = events, clock, interval_s
        self._aborted = threading.Event()

    def open(self) -> SourceFormat:
        return SourceFormat(4, 4, 1 / self._interval_s, "made in RGB", "driver")

    def read(self) -> Capture | None:
        if self._aborted.is_set():
            raise SourceError("source aborted")
        event = next(self._events, None)
        self._clock.advance(self._interval_s)
        if isinstance(event, BaseException):
            raise event
        if callable(event):
            event = event(self)
        if event is None:
            return None
        pixels = np.full((4, 4, 3), int(event) % 251, dtype=np.uint8)
        return Capture(pixels, self._clock.now_ns(), "driver")

    def hang(self) -> None:
        """Give nothing until somebody aborts it."""
        assert self._aborted.wait(60)
        raise SourceError("source aborted")

    def abort(self) -> None:
        self._aborted.set()

    def close(self) -> None:
        """Nothing to free."""


def scripted_maker(
    events: Iterable[object], clock: ScriptedClock, *, name="script", is_live=True, rate=30.0
) -> SourceMaker:
    """Return the maker of a scripted source; what is left of `events` goes to the next opening."""
    shared = iter(events)
    return SourceMaker(name, is_live, lambda: ScriptedSource(shared, clock, 1 / rate))


def tiny_spec(image_size: int = 8, classes: int = 10) -> ModelSpec:
    """Return a model that only a fake session can run."""
    return ModelSpec(
        name="tiny",
        source="none",
        task="classification",
        labels=(),
        inputs=(image_input((image_size, image_size)),),
        outputs=(task_output("classification", classes),),
        preprocess=PreprocessSpec((image_size, image_size)),
    )


class Recorder:
    """A sink that keeps the numbers of what it took, and raises on some.

    Args:
        fails_on: says of a number whether it raises.
    """

    name = "recorder"
    queue_size = 8
    needs_pixels = True

    def __init__(self, fails_on: Callable[[int], bool] = lambda number: False) -> None:
        self.fails_on = fails_on
        self.predictions: list[CameraPrediction] = []
        self.is_closed = False
        self.summarize: Callable[[], CameraSummary] | None = None

    @property
    def numbers(self) -> list[int]:
        return [prediction.frame.number for prediction in self.predictions]

    def open(self, summarize: Callable[[], CameraSummary]) -> None:
        self.summarize = summarize

    def write(self, prediction: CameraPrediction) -> None:
        if self.fails_on(prediction.frame.number):
            raise OSError("the broker went away")
        self.predictions.append(prediction)

    def close(self) -> None:
        self.is_closed = True
