"""stdout and stderr where they are closed, full, or left by their reader."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from edge_vit.errors import ArtifactError

_FAILED_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def prepare_streams() -> None:
    """Make both streams take any character, and messages go nowhere where stderr is closed.

    Raises:
        ArtifactError: stdout is closed: results would be lost, or land in the next file opened.
    """
    if sys.stderr is None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        if descriptor != 2:
            os.dup2(descriptor, 2)
            os.close(descriptor)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 # lives as long as we do
    if sys.stdout is None:
        raise ArtifactError(
            "stdout is closed, and results would be lost. Send them to a file with > FILE, or to "
            f"{os.devnull}"
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def write_stdout() -> Iterator[None]:
    """Turn a failing write to stdout inside the block into one line.

    A reader that left early stays a `BrokenPipeError`, which click ends quietly. An OSError that
    names a file, or that no write gives, is of something else and stays what it is.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _FAILED_WRITES or error.filename:
            raise
        discard(sys.stdout)
        raise ArtifactError(f"cannot write results to stdout: {error.strerror}") from None


def discard(stream: TextIO) -> None:
    """Send all that `stream` holds and will get to nowhere: Python writes it again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
