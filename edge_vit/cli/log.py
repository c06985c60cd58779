"""Messages on stderr, and progress: bars on a terminal, elsewhere lines.

All messages go through the logger ``edge_vit``: info for what happens, warning for what deserves
attention, debug for the rest.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich import progress as bars
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from edge_vit.cli.group import discard
from edge_vit.printable import printable
from edge_vit.progress import Advance, Progress

SECONDS_BETWEEN_LINES = 5.0

_ROOT = logging.getLogger("edge_vit")
_LOG = logging.getLogger(__name__)
_STYLES = {logging.DEBUG: "dim", logging.INFO: "", logging.WARNING: "yellow", logging.ERROR: "red"}


class EscapingConsole(Console):
    """A console that escapes control characters; those of rich itself still work."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of `renderable`, their text printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class MessageConsole(EscapingConsole):
    """The console of stderr; messages that it cannot take are lost, and the work goes on."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print `objects` as rich does."""
        try:
            super().print(*objects, **settings)
        except OSError:
            discard(sys.stderr)


@dataclass(frozen=True)
class CommandLog:
    """Where a command shows its progress: the console of stderr, unless it is to be quiet."""

    console: Console
    is_quiet: bool = False

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show progress for the time of a block; notes are logged."""
        if self.is_quiet:
            yield LineProgress(Console(quiet=True))
        elif self.console.is_terminal:
            shown = RichProgress(self.console)
            with shown.bars:
                yield shown
        else:
            yield LineProgress(self.console)


@contextlib.contextmanager
def open_log(*, is_verbose: bool, is_quiet: bool) -> Iterator[CommandLog]:
    """Show what edge-vit logs on stderr, for the time of a block."""
    console = MessageConsole()
    shown = _ConsoleHandler(console)
    shown.setLevel(logging.DEBUG if is_verbose else logging.WARNING if is_quiet else logging.INFO)
    level = _ROOT.level
    _ROOT.setLevel(logging.DEBUG)
    _ROOT.addHandler(shown)
    try:
        yield CommandLog(console, is_quiet)
    finally:
        _ROOT.setLevel(level)
        _ROOT.removeHandler(shown)


class _ConsoleHandler(logging.Handler):
    """Prints records above the bars of a display on the same console; none is read as markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "Warning: " if record.levelno == logging.WARNING else ""
        text = Text(prefix + self.format(record), _STYLES[record.levelno])
        self._console.print(text, soft_wrap=True)


class RichProgress:
    """Bars with count and time left, a spinner where the total is unknown; then how long it took.

    `console` is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.bars = bars.Progress(
            bars.SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            bars.TextColumn("{task.description}", markup=False),
            _Counted(bars.BarColumn(bar_width=30)),
            _Counted(bars.MofNCompleteColumn()),
            _Counted(bars.TimeRemainingColumn(compact=True)),
            console=console,
            transient=True,
        )

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Show a bar, or a spinner, for the time of a block."""
        task = self.bars.add_task(name, total=total)
        started = time.monotonic()
        try:
            yield lambda count: self.bars.advance(task, count)
        finally:
            self.bars.remove_task(task)
        took = Text(f"{name} ({time.monotonic() - started:.1f} s)", "dim")
        self._console.print(took, soft_wrap=True)

    def note(self, text: str) -> None:
        """Log `text`, above the bars."""
        _LOG.info(text)


class LineProgress:
    """Plain lines: one when a step begins, then one every few seconds while it counts."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Print a line now, and others while the block counts."""
        self._print(name)
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
            line = f"{name}: {done:,}" + (f" of {total:,}" if total else "")
            if total and done > done_at_start:
                left = (total - done) * (now - started) / (done - done_at_start)
                line += f", {_duration(left)} left"
            self._print(line)

        yield advance

    def note(self, text: str) -> None:
        """Log `text`."""
        _LOG.info(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class _Counted(bars.ProgressColumn):
    """Another column, left empty while the total is unknown."""

    def __init__(self, column: bars.ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: bars.Task) -> object:  # type: ignore[override]
        return self._column(task) if task.total is not None else Text()


def _duration(seconds: float) -> str:
    """Return ``45 s`` or ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
