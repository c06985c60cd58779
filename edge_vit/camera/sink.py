"""Where answers go: the protocol of a sink, and the thread with a bounded queue before each."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge_vit.camera.clock import SYSTEM_CLOCK, Clock
from edge_vit.camera.complaints import Complaints
from edge_vit.camera.values import CameraAnswer, SinkStatus, describe

if TYPE_CHECKING:
    from edge_vit.camera.summary import CameraSummary

_LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """Something that takes answers. One thread calls it, never the loop's own.

    It may raise: that answer counts as failed, the next one is offered all the same. What it has to
    connect to, it connects to when an answer comes, and again after it was lost.

    Attributes:
        name: for people, such as ``stdout`` or ``mqtt://broker/topic``; without a password.
        queue_size: answers that may wait before it. Of live sources the oldest is dropped when the
            queue is full; for the answers of files and folders the loop waits.
        needs_pixels: whether it looks at pictures. Else they do not wait with their answers, which
            would be megabytes each: `Frame.pixels` then has its shape, and is black.
    """

    name: str
    queue_size: int
    needs_pixels: bool

    def open(self, summarize: Callable[[], CameraSummary]) -> None:
        """Get ready; called once, before the first frame.

        Args:
            summarize: returns how the loop stands; may be called at any time, from any thread.

        Raises:
            EdgeVitError: it can never work; the loop does not begin.
        """
        ...

    def write(self, answer: CameraAnswer) -> None:
        """Take one answer. Its arrays are only read."""
        ...

    def close(self) -> None:
        """Finish what was begun; called once, whatever happened before."""
        ...


class SinkRunner:
    """A sink with its own thread and queue, so that a slow one slows nobody.

    Args:
        sink: which takes the answers; must be open, and is closed at the end.
        clock: for the time that the end may take.
        ended: called once the sink is closed.
    """

    def __init__(
        self, sink: Sink, clock: Clock = SYSTEM_CLOCK, ended: Callable[[], None] = lambda: None
    ) -> None:
        self.sink = sink
        self._clock, self._ended = clock, ended
        self._queue: deque[CameraAnswer] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False  # no more answers come
        self._is_done = False  # the sink is closed
        self._written = self._dropped = self._failed = 0
        self._last_error = ""
        self._complaints = Complaints(_LOG)
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def offer(self, answer: CameraAnswer) -> None:
        """Queue `answer`; of a live source at once, else when there is room."""
        if not self.sink.needs_pixels:
            answer = _without_pixels(answer)
        with self._changed:
            is_full = len(self._queue) >= self.sink.queue_size
            while is_full and not answer.frame.is_live and not self._is_stopping:
                self._clock.wait(self._changed)
                is_full = len(self._queue) >= self.sink.queue_size
            if self._is_stopping:
                self._dropped += 1
                return
            if is_full:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(answer)
            self._changed.notify_all()

    def stop(self) -> None:
        """Take no more answers, and let nobody wait; what is queued is still written."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def join(self, until_ns: int) -> bool:
        """Wait until the sink has written what is queued and is closed; say whether it has.

        Args:
            until_ns: when the sink is left to itself, and what is still queued is dropped.
        """
        self.stop()
        with self._changed:
            while not self._is_done:
                if self._clock.now_ns() >= until_ns:
                    self._dropped += len(self._queue)
                    self._queue.clear()
                    return False
                self._clock.wait(self._changed, until_ns)
        return True

    def status(self) -> SinkStatus:
        """Return how the sink stands."""
        with self._changed:
            return SinkStatus(
                self.sink.name, self._written, self._dropped, self._failed, self._last_error
            )

    def _run(self) -> None:
        while (answer := self._take()) is not None:
            try:
                self.sink.write(answer)
            except Exception as error:
                self._count_failure(error)
            else:
                with self._changed:
                    self._written += 1
        try:
            self.sink.close()
        except Exception as error:
            _LOG.warning("sink %s did not close: %s", self.sink.name, describe(error))
        with self._changed:
            self._is_done = True
            self._changed.notify_all()
        self._ended()

    @property
    def is_done(self) -> bool:
        """Whether everything is written and the sink closed."""
        return self._is_done

    def _take(self) -> CameraAnswer | None:
        """The next answer, waited for; None when no more come."""
        with self._changed:
            while not self._queue:
                if self._is_stopping:
                    return None
                self._changed.wait()
            answer = self._queue.popleft()
            self._changed.notify_all()
            return answer

    def _count_failure(self, error: Exception) -> None:
        """Count an answer that the sink raised on, and tell why."""
        reason = describe(error)
        with self._changed:
            self._failed += 1
            self._last_error = reason
        self._complaints.tell(reason, f"sink {self.sink.name} failed: {reason}")


def _without_pixels(answer: CameraAnswer) -> CameraAnswer:
    """`answer` with a picture of the same shape that takes no memory."""
    black = np.broadcast_to(np.uint8(0), answer.frame.pixels.shape)
    return dataclasses.replace(answer, frame=dataclasses.replace(answer.frame, pixels=black))
