"""systemd: a unit that keeps the camera loop running, and the loop's messages to it.

The messages are those of ``sd_notify``: lines of ``NAME=value`` to the socket that the environment
variable ``NOTIFY_SOCKET`` names; see sd_notify(3) and sd_watchdog_enabled(3).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

_TEMPLATE = """\
# Install: sudo tee /etc/systemd/system/{name}.service, then: sudo systemctl enable --now {name}
[Unit]
Description=edge-vit camera loop: {title}
Wants=network-online.target
# A CSI camera is read through this daemon of JetPack; elsewhere the line means nothing.
After=network-online.target nvargus-daemon.service
# Try for ever: a camera may come back after days.
StartLimitIntervalSec=0

[Service]
# Ready with the first answer. The loop then says every few seconds that it lives.
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory={folder}
# EDGEVIT_TOKEN=... of a dashboard for others stands here, in a file that root alone reads.
EnvironmentFile=-/etc/edgevit/{name}.env
User={user}
SupplementaryGroups=video
# Status 4: a camera or a GPU was lost. Status 2: the command is wrong, trying again is no help.
Restart=on-failure
RestartPreventExitStatus=2
RestartSec=2
WatchdogSec=30
# An engine may have to be built first.
TimeoutStartSec=30min
TimeoutStopSec=5
NoNewPrivileges=yes
ProtectSystem=full
# No PrivateTmp: the socket of nvargus-daemon is in /tmp.

[Install]
WantedBy=multi-user.target
"""


class Notifier:
    """Sends the state of the loop to the socket at `address`; None sends nothing.

    `interval_ns` is the time between two signs of life, 0 for none.
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
        """Notify that the first prediction has come."""
        self._send("READY=1\nSTATUS=answering")

    def alive(self, now_ns: int) -> int | None:
        """Notify that the loop lives, if it is time to; return when the next time is."""
        if self._address is None or not self._interval_ns:
            return None
        if now_ns >= self._next_ns:
            self._send("WATCHDOG=1")
            self._next_ns = now_ns + self._interval_ns
        return self._next_ns

    def stopping(self) -> None:
        """Notify that the loop ends."""
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


def systemd_unit(command: Sequence[str], *, title: str, folder: Path, user: str) -> str:
    """Return a unit that runs `command`, a full path and arguments, in `folder` as `user`."""
    name = "edgevit-" + (re.sub(r"[^\w.-]+", "-", title).strip("-.") or "camera")
    return _TEMPLATE.format(
        name=name,
        title=_escape(title),
        command=" ".join(map(_quote, command)),
        folder=_escape(str(folder)),
        user=user,
    )


def _escape(text: str) -> str:
    """`text` with what systemd would take for a specifier doubled; one line."""
    return " ".join(text.split()).replace("%", "%%")


def _quote(argument: str) -> str:
    """`argument` as one word of ``ExecStart``: see "Command lines" in systemd.service(5)."""
    escaped = argument.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    if argument and not re.search(r"[\s\"';]", argument):
        return escaped
    return '"' + escaped.replace('"', '\\"').replace("\n", "\\n") + '"'
