"""The lanes of a session: each run takes one and gives it back."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from edge_vit.errors import BackendError, EdgeVitError
from edge_vit.runtime.trt.lane import Lane

_LOG = logging.getLogger(__name__)


class Lanes:
    """At most `size` lanes, opened when they are first needed; threads wait for each other's."""

    def __init__(self, open_lane: Callable[[], Lane], size: int) -> None:
        self._open_lane, self._size = open_lane, size
        self._turn = threading.Condition()
        self._idle: list[Lane] = [open_lane()]
        self._in_use: dict[Lane, bool] = {}  # whether it waits for `collect`
        self._num_opening = 0

    def take(self, *, is_submitted: bool) -> Lane:
        """Return a lane, the one that was used last where it is idle.

        Args:
            is_submitted: it will be given back when somebody collects, not by this call's thread
                as soon as it is done.

        Raises:
            BackendError: all of them wait for somebody to collect, or a new one cannot be opened.
        """
        with self._turn:
            while not self._idle and self._num_lanes >= self._size:
                if all(self._in_use.values()) and not self._num_opening:
                    raise BackendError(
                        f"{self._size} runs are under way already. Collect one before the next"
                    )
                self._turn.wait()
            if self._idle:
                lane = self._idle.pop()
                self._in_use[lane] = is_submitted
                return lane
            self._num_opening += 1
        try:
            lane = self._open_lane()
        except BaseException:
            with self._turn:
                self._num_opening -= 1
                self._turn.notify()
            raise
        with self._turn:
            self._num_opening -= 1
            self._in_use[lane] = is_submitted
        return lane

    def give_back(self, lane: Lane) -> None:
        """Let another run have `lane`."""
        with self._turn:
            del self._in_use[lane]
            self._idle.append(lane)
            self._turn.notify()

    @contextlib.contextmanager
    def discarding(self, lane: Lane) -> Iterator[None]:
        """Close `lane` where the block fails: what its stream holds is not known then."""
        try:
            yield
        except BaseException:
            with self._turn:
                del self._in_use[lane]
                self._turn.notify()
            try:
                lane.close()
            except EdgeVitError as error:
                _LOG.debug("closing after a failure: %s", error)
            raise

    def close(self) -> None:
        """Close every lane, those with a run that nobody collected too."""
        lanes = (*self._idle, *self._in_use)
        self._idle.clear()
        self._in_use.clear()
        with contextlib.ExitStack() as stack:
            for lane in lanes:
                stack.callback(lane.close)

    @property
    def first(self) -> Lane | None:
        """One of the idle lanes."""
        return self._idle[0] if self._idle else None

    @property
    def _num_lanes(self) -> int:
        return len(self._idle) + len(self._in_use) + self._num_opening
