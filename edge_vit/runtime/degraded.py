"""Fallbacks that were allowed and taken: logged, and collected for the exit status."""

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
    """Yield a list to which every fallback is added that is taken inside the block."""
    collected: list[str] = []
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)


def report_degraded(text: str) -> None:
    """Log that a fallback was taken, and why; inside `collect_degraded` it is collected as well."""
    _LOG.warning("%s", text)
    collected = _COLLECTED.get()
    if collected is not None:
        collected.append(text)
