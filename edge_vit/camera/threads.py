"""Threads of the camera loop, their clock, and warnings that do not fill a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge_vit.errors import EdgeVitError

_LOG = logging.getLogger(__name__)
_SILENCE_S = 60.0
_MAX_REASONS = 16  # that are logged within `_SILENCE_S`, however many there are


class Clock:
    """The machine's clock; tests of the loop put a scripted one in its place."""

    def now_ns(self) -> int:
        """Return `time.monotonic_ns`."""
        return time.monotonic_ns()

    def unix_ns(self) -> int:
        """Return `time.time_ns`."""
        return time.time_ns()

    def wait(self, condition: threading.Condition, until_ns: int | None = None) -> None:
        """Wait until `condition`, which the caller holds, is notified, or until `until_ns`.

        It may return early; the caller checks again what it waits for.
        """
        if until_ns is None:
            condition.wait()
        elif (left_ns := until_ns - time.monotonic_ns()) > 0:
            condition.wait(left_ns / 1e9)


SYSTEM_CLOCK = Clock()


def start_thread(
    name: str, work: Callable[[], object], failed: Callable[[EdgeVitError], object]
) -> threading.Thread:
    """Start and return a daemon thread that calls `work`.

    `failed` is called in it with whatever escapes `work`, `SystemExit` included.
    """

    def run() -> None:
        try:
            work()
        except BaseException as fault:
            failed(as_error(fault, name))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def describe(value: object) -> str:
    """Return what went wrong in one line: the message of an error, or else its type."""
    return " ".join(str(value).split()) or type(value).__name__


def as_error(fault: BaseException, where: str) -> EdgeVitError:
    """Return `fault` as an error for the user; any other exception is named by its type."""
    if isinstance(fault, EdgeVitError):
        return fault
    _LOG.debug("%s", where, exc_info=fault)
    text, kind = describe(fault), type(fault).__name__
    return EdgeVitError(f"{where} failed: {kind if text == kind else f'{kind}: {text}'}")


def attempt(what: str, work: Callable[[], object]) -> None:
    """Call `work`; log a warning that it failed instead of raising."""
    try:
        work()
    except BaseException as fault:
        _LOG.warning("%s", describe(as_error(fault, what)))


class RateLimitedWarnings:
    """Warnings of one place; the same one is logged again after a minute, with a count."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._logged: dict[str, tuple[float, int]] = {}  # reason -> when, and how often since

    def warn(self, reason: str, message: str) -> None:
        """Log `message`, unless `reason` was logged within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            logged_s, num_kept = self._logged.pop(reason, (float("-inf"), 0))
            if now_s - logged_s < _SILENCE_S:
                self._logged[reason] = logged_s, num_kept + 1
                return
            if len(self._logged) >= _MAX_REASONS:
                oldest = min(self._logged, key=lambda known: self._logged[known][0])
                if now_s - self._logged[oldest][0] < _SILENCE_S:
                    return
                del self._logged[oldest]
            self._logged[reason] = now_s, 0
        again = f" ({num_kept} more of them in between)" if num_kept else ""
        self._logger.warning("%s%s", message, again)
