"""A process that is killed before each call that writes, one call after the other."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = {
    *("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link"),
    *("os.symlink", "fcntl.flock"),
}


def is_killed_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a child that SIGKILL ends before its `number`-th writing call, from 1 on.

    Calls are those that Python audits, and writes and syncs of descriptors. The child syncs
    nothing: a kill loses no page of the kernel's.

    Returns:
        Whether the child was killed; otherwise it has ended well before.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _kill_before(number)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed"
    return False


def _kill_before(number: int) -> None:
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        if is_open or event in _EVENTS:
            count()

    write = os.write

    def counted_write(*arguments: object) -> int:
        count()
        return write(*arguments)  # type: ignore[arg-type]

    os.write, os.fsync = counted_write, lambda handle: count()  # type: ignore[assignment]
    sys.addaudithook(audit)
