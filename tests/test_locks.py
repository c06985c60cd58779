"""A lock keeps others out, says who holds it, and dies with its process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from edge_vit import locks
from edge_vit.errors import ArtifactError
from edge_vit.locks import LOCK, locked
from edge_vit.progress import Silent

HOLD = """
import sys, time
from pathlib import Path
from edge_vit.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class Steps(Silent):
    """Progress that keeps the names of its steps."""

    def __init__(self):
        self.names = []

    def step(self, name, total=None):
        self.names.append(name)
        return super().step(name, total)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_nothing_is_left_of_a_lock(tmp_path):
    with locked(tmp_path / LOCK):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_an_error_releases_it(tmp_path):
    with contextlib.suppress(ZeroDivisionError), locked(tmp_path / LOCK):
        raise ZeroDivisionError
    with locked(tmp_path / LOCK, timeout_s=0):
        pass


def test_the_thread_that_holds_it_may_take_it_again(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with locked(tmp_path / LOCK), locked(tmp_path / "link" / LOCK, timeout_s=0):
        pass
    assert not (tmp_path / LOCK).exists()


def test_threads_take_turns(tmp_path):
    inside, most = [], []

    def work():
        with locked(tmp_path / LOCK):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert not list(tmp_path.iterdir())


def test_who_waits_too_long_learns_who_holds_it(tmp_path, holder):
    progress = Steps()
    with (
        pytest.raises(ArtifactError, match=r"--lock-timeout SECONDS") as caught,
        locked(tmp_path / LOCK, progress, timeout_s=0.05),
    ):
        pytest.fail("the block ran")
    who = f"process {holder.pid} (-c {tmp_path / LOCK})"
    assert f"{tmp_path} is being written by {who}, still after 0.05 s" in str(caught.value)
    assert progress.names == [f"waiting for {who}, which is writing {tmp_path}"]


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path / LOCK, timeout_s=0):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_lock_file_says_cannot_steer_a_terminal(tmp_path, holder):
    (tmp_path / LOCK).write_bytes(b"\x1b]0;gotcha\x07" + b"x" * 500)
    progress = Steps()
    with pytest.raises(ArtifactError), locked(tmp_path / LOCK, progress, timeout_s=0):
        pytest.fail("the block ran")
    assert progress.names[0].isprintable()
    assert len(progress.names[0]) < 400 + len(str(tmp_path))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"cannot write .*/missing: No such file"),
        locked(tmp_path / "missing" / LOCK),
    ):
        pytest.fail("the block ran")


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def refuse(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locked(tmp_path / LOCK):
        pass
    assert "commands cannot wait for each other here: No locks available" in caplog.text
