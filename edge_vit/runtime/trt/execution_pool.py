"""The contexts of a session: each run takes one and gives it back."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from edge_vit.errors import BackendError, EdgeVitError
from edge_vit.runtime.trt.execution import ExecutionContext

_LOG = logging.getLogger(__name__)


class ExecutionPool:
    """At most `size` contexts, opened when they are first needed; threads wait for each other's."""

    def __init__(self, open_context: Callable[[], ExecutionContext], size: int) -> None:
        self._open_context, self._size = open_context, size
        self._turn = threading.Condition()
        self._idle: list[ExecutionContext] = [open_context()]
        self._in_use: dict[ExecutionContext, bool] = {}  # whether it waits for `collect`
        self._num_opening = 0

    def take(self, *, is_submitted: bool) -> ExecutionContext:
        """Return a context, the one that was used last where it is idle.

        Args:
            is_submitted: it will be given back by `collect`, not by this call's thread
                as soon as it is done.

        Raises:
            BackendError: all of them wait for `collect`, or a new one cannot be opened.
        """
        with self._turn:
            while not self._idle and self._num_open >= self._size:
                if all(self._in_use.values()) and not self._num_opening:
                    raise BackendError(
                        f"{self._size} runs are under way already. Collect one before the next"
                    )
                self._turn.wait()
            if self._idle:
                execution = self._idle.pop()
                self._in_use[execution] = is_submitted
                return execution
            self._num_opening += 1
        try:
            execution = self._open_context()
        except BaseException:
            with self._turn:
                self._num_opening -= 1
                self._turn.notify()
            raise
        with self._turn:
            self._num_opening -= 1
            self._in_use[execution] = is_submitted
        return execution

    def give_back(self, execution: ExecutionContext) -> None:
        """Let another run have `execution`."""
        with self._turn:
            del self._in_use[execution]
            self._idle.append(execution)
            self._turn.notify()

    @contextlib.contextmanager
    def discarding(self, execution: ExecutionContext) -> Iterator[None]:
        """Close `execution` where the block fails: what its stream holds is not known then."""
        try:
            yield
        except BaseException:
            with self._turn:
                del self._in_use[execution]
                self._turn.notify()
            try:
                execution.close()
            except EdgeVitError as error:
                _LOG.debug("closing after a failure: %s", error)
            raise

    def close(self) -> None:
        """Close every context, those with a run that was not collected too."""
        contexts = (*self._idle, *self._in_use)
        self._idle.clear()
        self._in_use.clear()
        with contextlib.ExitStack() as stack:
            for execution in contexts:
                stack.callback(execution.close)

    @property
    def first(self) -> ExecutionContext | None:
        """One of the idle contexts."""
        return self._idle[0] if self._idle else None

    @property
    def _num_open(self) -> int:
        return len(self._idle) + len(self._in_use) + self._num_opening
