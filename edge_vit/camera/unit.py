"""A systemd unit that keeps the camera loop running, from boot and after every failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
