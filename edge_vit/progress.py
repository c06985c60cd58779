"""Progress of work: a protocol, and the silent form of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int], None]
"""Call it with the number of items that are done since the last call."""


class Progress(Protocol):
    """Reports of a stage while it works; drawn by the command line, not shown by the API."""

    def step(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a step called `name` of `total` items (None: unknown) for the time of a block."""
        ...

    def note(self, text: str) -> None:
        """Show one line that stays on the screen."""
        ...


class Silent:
    """Progress that is shown nowhere."""

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Count nothing."""
        yield lambda count: None

    def note(self, text: str) -> None:
        """Show nothing."""


SILENT: Progress = Silent()
