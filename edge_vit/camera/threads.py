"""Threads of the camera loop: none ends without its reason being handled."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edge_vit.camera.values import describe
from edge_vit.errors import EdgeVitError

_LOG = logging.getLogger(__name__)


def start_thread(
    name: str, work: Callable[[], object], failed: Callable[[EdgeVitError], object]
) -> threading.Thread:
    """Start and return a daemon thread that calls `work`.

    Args:
        name: of the thread.
        work: runs once.
        failed: called in the thread with what escaped `work`, `SystemExit` included.
    """

    def run() -> None:
        try:
            work()
        except BaseException as fault:
            failed(as_error(fault, name))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def as_error(fault: BaseException, where: str) -> EdgeVitError:
    """Return `fault` as an error for the user; any other exception is named by its type."""
    if isinstance(fault, EdgeVitError):
        return fault
    _LOG.debug("%s", where, exc_info=fault)
    text = describe(fault)
    kind = type(fault).__name__
    return EdgeVitError(f"{where} failed: {kind if text == kind else f'{kind}: {text}'}")


def attempt(what: str, work: Callable[[], object]) -> None:
    """Call `work`; log a warning that it failed instead of raising."""
    try:
        work()
    except BaseException as fault:
        _LOG.warning("%s", describe(as_error(fault, what)))
