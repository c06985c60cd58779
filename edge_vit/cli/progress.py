"""Progress on stderr: bars on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from edge_vit.progress import Advance, Silent
from edge_vit.progress import Progress as AnyProgress

SECONDS_BETWEEN_LINES = 5.0

_LOG = logging.getLogger(__name__)


class ShownProgress(AnyProgress, Protocol):
    """Progress that can also say where the current step is, beyond its count."""

    def detail(self, text: str) -> None:
        """Say of the current step what replaces what was said of it before."""
        ...


@contextlib.contextmanager
def open_progress(console: Console, *, is_quiet: bool = False) -> Iterator[ShownProgress]:
    """Give the progress that suits `console`, for the time of a block; notes are logged."""
    if is_quiet:
        yield QuietProgress()
    elif console.is_terminal:
        progress = RichProgress(console)
        with progress.shown():
            yield progress
    else:
        yield LineProgress(console)


class QuietProgress(Silent):
    """Shows nothing; notes still reach the log file."""

    def note(self, text: str) -> None:
        """Log `text`."""
        _LOG.info(text)

    def detail(self, text: str) -> None:
        """Say nothing."""


class RichProgress:
    """Bars with count and time left, a spinner where the total is unknown; then how long it took.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        is_unicode = console.encoding.startswith("utf")
        self._console = console
        self._bars = Progress(
            SpinnerColumn("dots" if is_unicode else "line"),
            TextColumn("{task.description}", markup=False),
            _Counted(BarColumn(bar_width=30)),
            _Counted(MofNCompleteColumn()),
            _Counted(TimeRemainingColumn(compact=True)),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
        )
        self._steps: list[TaskID] = []

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the bars for the time of a block."""
        with self._bars:
            yield

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show a bar, or a spinner, for the time of a block."""
        task = self._bars.add_task(name, total=total, detail="")
        self._steps.append(task)
        started = time.monotonic()
        try:
            yield lambda count: self._bars.advance(task, count)
        finally:
            self._steps.remove(task)
            self._bars.remove_task(task)
        self._console.print(
            Text(f"{name} ({time.monotonic() - started:.1f} s)", "dim"), soft_wrap=True
        )

    def note(self, text: str) -> None:
        """Print `text` above the bars."""
        _LOG.info(text)

    def detail(self, text: str) -> None:
        """Show `text` behind the current bar."""
        if self._steps:
            self._bars.update(self._steps[-1], detail=text)


class LineProgress:
    """Plain lines: one when a step begins, then one every few seconds while it counts.

    Args:
        console: not a terminal.
        clock: seconds, rising.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._detail = ""

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Print a line now, and others while the block counts."""
        self._print(name)
        self._detail = ""
        started = last = self._clock()
        done, done_at_start = 0, 0

        def advance(count: int) -> None:
            nonlocal done, done_at_start, last
            # A resumed work begins with a leap, which says nothing about its speed.
            done_at_start = done_at_start or count
            done += count
            now = self._clock()
            if now - last < SECONDS_BETWEEN_LINES:
                return
            last = now
            parts = [f"{name}: {done:,}" + (f" of {total:,}" if total else "")]
            if self._detail:
                parts.append(self._detail)
            if total and done > done_at_start:
                left = (total - done) * (now - started) / (done - done_at_start)
                parts.append(f"{_duration(left)} left")
            self._print(", ".join(parts))

        yield advance

    def note(self, text: str) -> None:
        """Print `text`."""
        _LOG.info(text)

    def detail(self, text: str) -> None:
        """Put `text` into the lines to come."""
        self._detail = text

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class _Counted(ProgressColumn):
    """Another column, left empty while the total is unknown."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> object:  # type: ignore[override]
        return self._column(task) if task.total is not None else Text()


def _duration(seconds: float) -> str:
    """Return ``45 s`` or ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
