"""Where predictions go: the protocol of a sink, and the thread with a bounded queue before each."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable

import numpy as np

from edge_vit.camera import threads
from edge_vit.camera.latest_queue import LatestQueue
from edge_vit.camera.summary import CameraSummary
from edge_vit.camera.values import CameraPrediction, SinkStatus
from edge_vit.errors import EdgeVitError

_LOG = logging.getLogger(__name__)

Summarize = Callable[[], CameraSummary]  # returns the state of the loop

_Waiting = tuple[CameraPrediction, Callable[[], None]]


class Sink:
    """Takes predictions, in one thread of its own; any class with these members is one.

    It may raise: that prediction counts as failed, the next one is offered all the same. Of more
    than `queue_size` predictions of one live source that wait, the oldest is dropped. Of files and
    folders none is: they are read no faster than sinks take them.
    """

    name: str  # for people, such as ``stdout`` or ``mqtt://broker/topic``; without a password
    queue_size = 100
    needs_pixels = False  # else `Frame.pixels` is black, so that a queue does not hold megabytes

    def open(self, summarize: Summarize) -> None:
        """Get ready, before the first frame; `summarize` may be called later, in any thread."""

    def write(self, prediction: CameraPrediction) -> None:
        """Take one prediction. Its arrays are only read."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish what was begun; called once, whatever happened before."""


class SinkRunner:
    """An open sink with its own thread and a queue for each source; `ended` is called at its end.

    The sink is closed at the end.
    """

    def __init__(
        self,
        sink: Sink,
        clock: threads.Clock = threads.SYSTEM_CLOCK,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.sink = sink
        self.error: EdgeVitError | None = None  # why its thread ended before its time
        self._clock, self._ended = clock, ended
        # Of a file every prediction waits: it is held back where it is read.
        self._queue: LatestQueue[_Waiting] = LatestQueue(sink.queue_size, file_depth=sys.maxsize)
        self._changed = threading.Condition()
        self._is_done = False  # the sink is closed
        self._written = self._dropped = self._failed = 0
        self._last_error = ""
        self._warnings = threads.RateLimitedWarnings(_LOG)
        self._thread = threads.start_thread(f"sink {sink.name}", self._run, self._end)

    def offer(self, prediction: CameraPrediction, taken: Callable[[], None] = lambda: None) -> None:
        """Queue `prediction` and return at once; `taken` is called once it is written or lost."""
        if not self.sink.needs_pixels:
            prediction = _without_pixels(prediction)
        frame = prediction.frame
        lost = self._queue.put(frame.source, (prediction, taken), is_live=frame.is_live)
        self._drop([lost] if lost else [])

    def stop(self) -> None:
        """Take no more predictions; what is queued is still written."""
        self._queue.close()

    def join(self, until_ns: int) -> bool:
        """Wait for the sink to close, drop what is queued at `until_ns`; return whether it is."""
        self.stop()
        with self._changed:
            while not self._is_done and self._clock.now_ns() < until_ns:
                self._clock.wait(self._changed, until_ns)
            if self._is_done:
                return True
        self._drop(self._queue.clear())
        return False

    def status(self) -> SinkStatus:
        """Return how the sink stands."""
        with self._changed:
            return SinkStatus(
                self.sink.name, self._written, self._dropped, self._failed, self._last_error
            )

    @property
    def is_done(self) -> bool:
        """Whether everything is written and the sink closed."""
        return self._is_done

    def _run(self) -> None:
        while waiting := self._queue.take():
            ((prediction, taken),) = waiting
            try:
                self.sink.write(prediction)
            except BaseException as error:
                self._count_failure(error)
            else:
                with self._changed:
                    self._written += 1
            taken()
        try:
            self.sink.close()
        except BaseException as fault:  # what it took may be lost
            self._end(threads.as_error(fault, f"closing sink {self.sink.name}"))
        else:
            self._end()

    def _end(self, error: EdgeVitError | None = None) -> None:
        """Note that the thread ends, because of `error` or because everything is written."""
        if error is not None:
            with self._changed:
                self.error, self._last_error = error, threads.describe(error)
            self._drop(self._queue.clear())
        with self._changed:
            self._is_done = True
            self._changed.notify_all()
        self._ended()

    def _drop(self, lost: list[_Waiting]) -> None:
        with self._changed:
            self._dropped += len(lost)
        for _, taken in lost:
            taken()

    def _count_failure(self, error: BaseException) -> None:
        reason = threads.describe(error)
        with self._changed:
            self._failed += 1
            self._last_error = reason
        self._warnings.warn(reason, f"sink {self.sink.name} failed: {reason}")


def _without_pixels(prediction: CameraPrediction) -> CameraPrediction:
    """Return `prediction` with a picture of the same shape that takes no memory."""
    black = np.broadcast_to(np.uint8(0), prediction.frame.pixels.shape)
    return dataclasses.replace(
        prediction, frame=dataclasses.replace(prediction.frame, pixels=black)
    )
