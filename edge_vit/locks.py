"""One writer at a time: a lock file that names its holder, and that no dead process can keep."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edge_vit.errors import ArtifactError
from edge_vit.files import refuse_os_errors
from edge_vit.progress import SILENT, Progress

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"  # name of the lock file in a folder that is locked

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 0.1
_LONGEST_HOLDER = 200
_held = threading.local()


@contextlib.contextmanager
def locked(
    path: Path, progress: Progress = SILENT, timeout_s: float | None = None
) -> Iterator[None]:
    """Hold the lock file at `path` for the time of a block; the file is gone afterwards.

    Other processes and other threads wait, `timeout_s` at most; `progress` shows who holds it. The
    thread that holds it may take it again. The system releases the lock of a process that dies; the
    file that it leaves locks nothing.

    Raises:
        ArtifactError: the folder cannot be written, or the time is over.
    """
    key = os.path.realpath(path)
    own: set[str] = _held.__dict__.setdefault("keys", set())
    if key in own:
        yield
        return
    handle = _acquire(path, progress, timeout_s)
    own.add(key)
    try:
        yield
    finally:
        own.discard(key)
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: `_try` notices that its file is no longer there
        os.close(handle)


def _acquire(path: Path, progress: Progress, timeout_s: float | None) -> int:
    started = time.monotonic()
    handle = _try(path)
    if handle is not None:
        return handle
    with progress.step(f"waiting for {_holder(path)}, which is writing {path.parent}"):
        while (handle := _try(path)) is None:
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                raise ArtifactError(
                    f"{path.parent} is being written by {_holder(path)}, still after "
                    f"{timeout_s:g} s. Run this again when that has ended, or wait longer: "
                    "--lock-timeout SECONDS"
                )
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return handle


def _try(path: Path) -> int | None:
    """Return a handle that holds the lock, None where somebody else holds it."""
    while True:
        with refuse_os_errors(path.parent):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if not _lock(handle):
                os.close(handle)
                return None
            if _is_file_at(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed it just now
    with contextlib.suppress(OSError):  # a full disk: then the others do not learn who it is
        os.truncate(handle, 0)
        os.write(handle, _own_name().encode(errors="replace"))
    return handle


def _lock(handle: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        _LOG.warning("commands cannot wait for each other here: %s", error.strerror)
    return True


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _own_name() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return f"process {os.getpid()} ({' '.join([program, *sys.argv[1:]])})"


def _holder(path: Path) -> str:
    """Return the name of the holder of the lock, from its file."""
    try:
        name = path.read_bytes()[:_LONGEST_HOLDER].decode(errors="replace")
    except OSError:
        name = ""
    return "".join(c if c.isprintable() else "?" for c in name) or "another process"
