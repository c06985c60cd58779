"""The clock of the camera loop: one that runs, and the protocol that a scripted one fills."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Instants, and waiting for them."""

    def now_ns(self) -> int:
        """Return the instant, nanoseconds; never goes back."""
        ...

    def unix_ns(self) -> int:
        """Return the same instant as wall time, nanoseconds since 1970."""
        ...

    def wait(self, condition: threading.Condition, until_ns: int | None = None) -> None:
        """Wait until `condition` is notified, which the caller holds, or until `until_ns`.

        It may return early; the caller looks again at what it waits for.
        """
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Return `time.monotonic_ns`."""
        return time.monotonic_ns()

    def unix_ns(self) -> int:
        """Return `time.time_ns`."""
        return time.time_ns()

    def wait(self, condition: threading.Condition, until_ns: int | None = None) -> None:
        """Wait on `condition`."""
        if until_ns is None:
            condition.wait()
        elif (left_ns := until_ns - time.monotonic_ns()) > 0:
            condition.wait(left_ns / 1e9)


SYSTEM_CLOCK = SystemClock()
