"""Work in a child process: what crashes or runs out of memory there does not take us with it.

The child gets one JSON object on its stdin and sends JSON lines on its stdout. While it works its
stdin stays open: its end means that the parent is gone.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import IO, Any

from edge_vit.errors import ArtifactError, BackendError, EdgeVitError, MissingDependencyError
from edge_vit.runtime.trt.network import OutOfMemoryError

_LOG = logging.getLogger(__name__)
_KILLED = 9  # SIGKILL, for which Windows has no word

ERRORS: Mapping[str, type[EdgeVitError]] = {
    kind.__name__: kind
    for kind in (
        *(BackendError, ArtifactError, MissingDependencyError),
        *(OutOfMemoryError, EdgeVitError),
    )
}
"""Errors of a child, by the name that crosses the pipe."""

Event = dict[str, Any]


def run_child(
    request: Mapping[str, Any], on_event: Callable[[Event], None], purpose: str
) -> Mapping[str, Any]:
    """Return the result of `edge_vit.runtime.trt.worker` for `request`.

    `on_event` takes what comes before the result, such as progress; `purpose` is for messages:
    ``building the int8 engine``. Errors of the child are raised as the same kind; one that the
    system killed, as it does when memory runs out, is an OutOfMemoryError. After Ctrl-C it is gone.
    """
    with tempfile.TemporaryFile() as stderr, _start(stderr) as child:
        try:
            answer = _converse(child, request, on_event)
        except BaseException:
            child.kill()  # all that it was writing is the parent's to remove
            child.wait()  # on Ctrl-C, `with` waits for a quarter of a second alone
            raise
        status = child.wait()
        if answer is not None:
            return answer
        raise _crash(purpose, status, _last_words(stderr))


def _start(stderr: IO[bytes]) -> subprocess.Popen[str]:
    # The same modules as here, whatever the working folder; and no Ctrl-C but ours.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from edge_vit.runtime.trt.worker import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def _converse(
    child: subprocess.Popen[str], request: Mapping[str, Any], on_event: Callable[[Event], None]
) -> Mapping[str, Any] | None:
    """Return the child's result; None where it ended without one."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
    except BrokenPipeError:  # it is gone already
        return None
    for line in child.stdout:
        event = json.loads(line)
        if "error" in event:
            raise ERRORS.get(event["error"], BackendError)(event["text"])
        if "answer" in event:
            answer: Mapping[str, Any] = event["answer"]
            child.stdin.close()
            return answer
        on_event(event)
    return None


def _last_words(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    text = stderr.read().decode(errors="replace").strip()
    if text:
        _LOG.debug("the child's stderr: %s", text)
    return text.splitlines()[-1].strip() if text else ""


def _crash(purpose: str, status: int, words: str) -> BackendError:
    shown = f" ({words})" if words else ""
    if status == -_KILLED:
        return OutOfMemoryError(
            f"{purpose}: the process was killed, as the system does when memory runs out{shown}"
        )
    if status < 0:
        name = signal.Signals(-status).name
        return BackendError(f"{purpose} crashed its process with {name}{shown}")
    return BackendError(f"{purpose} ended with status {status} and no answer{shown}")
