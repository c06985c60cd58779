"""Messages to a service manager: ready, alive, stopping, over its datagram socket.

The protocol is systemd's ``sd_notify``: lines of ``NAME=value`` to the socket that the environment
variable ``NOTIFY_SOCKET`` names; see sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the socket at `address` how the loop stands; None sends nothing.

    `interval_ns` is how often the manager wants to hear of it, 0 for never.
    """

    def __init__(self, address: str | None, interval_ns: int = 0) -> None:
        self._address = address
        self._interval_ns = interval_ns
        self._next_ns = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Return the one that the service manager asked for, or one that sends nothing."""
        pid = environment.get("WATCHDOG_PID", "")
        micros = environment.get("WATCHDOG_USEC", "")
        is_for_us = pid in ("", str(os.getpid()))
        # Half the limit, as sd_watchdog_enabled(3) advises.
        interval_ns = int(micros) * 500 if micros.isdigit() and is_for_us else 0
        return cls(environment.get("NOTIFY_SOCKET") or None, interval_ns)

    def ready(self) -> None:
        """Say that the first answer has come."""
        self._send("READY=1\nSTATUS=answering")

    def alive(self, now_ns: int) -> int | None:
        """Say that the loop lives, if it is time to; return when the next time is."""
        if self._address is None or not self._interval_ns:
            return None
        if now_ns >= self._next_ns:
            self._send("WATCHDOG=1")
            self._next_ns = now_ns + self._interval_ns
        return self._next_ns

    def stopping(self) -> None:
        """Say that the loop ends."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with (
            contextlib.suppress(OSError),  # a service manager that is gone is no reason to end
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(1)
            channel.sendto(text.encode(), address)
