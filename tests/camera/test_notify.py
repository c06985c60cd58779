from __future__ import annotations

import os
import socket

import pytest

from edge_vit.camera.systemd import Notifier

SECOND = 10**9


@pytest.fixture
def manager(tmp_path):
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        yield channel


def test_says_ready_alive_and_stopping(manager):
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "4000000"}
    )
    notifier.ready()
    assert manager.recv(200) == b"READY=1\nSTATUS=answering"
    assert notifier.alive(10 * SECOND) == 12 * SECOND  # half the limit later
    assert manager.recv(200) == b"WATCHDOG=1"
    assert notifier.alive(11 * SECOND) == 12 * SECOND  # nothing said in between
    notifier.alive(12 * SECOND)
    assert manager.recv(200) == b"WATCHDOG=1"
    notifier.stopping()
    assert manager.recv(200) == b"STOPPING=1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_to_tell_is_no_error(environment):
    notifier = Notifier.from_environment(environment)
    notifier.ready()
    assert notifier.alive(0) is None
    notifier.stopping()


def test_the_watchdog_may_name_this_process():
    environment = {
        "NOTIFY_SOCKET": "@edge-vit-nowhere",
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    assert Notifier.from_environment(environment).alive(0) == 500_000
