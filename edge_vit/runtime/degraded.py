"""A fallback that was allowed and taken: said in the log, on the session, and to who collects."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

_LOG = logging.getLogger(__name__)

_COLLECTED: ContextVar[list[str] | None] = ContextVar("degraded", default=None)

DEGRADED_STATUS = 6
"""Exit status of a command that did its work on a fallback."""


@contextlib.contextmanager
def collect_degraded() -> Iterator[list[str]]:
    """Give a list to which every fallback is added that is taken inside the block."""
    collected: list[str] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def tell_degraded(text: str) -> None:
    """Say that a fallback was taken, and why."""
    _LOG.warning("%s", text)
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(text)
