"""The command line's log: on stderr, and in a log file where one is asked for.

All of it goes through the logger ``edge_vit``: info for what happens, warning for what deserves
a look, debug for the rest.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from edge_vit.cli.progress import ShownProgress, open_progress
from edge_vit.cli.streams import discard
from edge_vit.files import refuse_os_errors
from edge_vit.printable import printable

_ROOT = logging.getLogger("edge_vit")
_STYLES = {logging.DEBUG: "dim", logging.INFO: "", logging.WARNING: "yellow", logging.ERROR: "red"}


class EscapingConsole(Console):
    """A console that writes control characters out; those of rich itself still work."""

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
    """Where a command shows progress; its messages are logged.

    Attributes:
        console: of stderr.
        is_quiet: whether progress is hidden.
    """

    console: Console
    is_quiet: bool

    def progress(self) -> AbstractContextManager[ShownProgress]:
        """Open a display of progress for the time of a block."""
        return open_progress(self.console, is_quiet=self.is_quiet)


@contextlib.contextmanager
def open_log(*, is_verbose: bool, is_quiet: bool, log_file: Path | None) -> Iterator[CommandLog]:
    """Show what edge-vit logs on stderr, and write it to `log_file`, for the time of a block."""
    console = MessageConsole()
    shown = _ConsoleHandler(console)
    shown.setLevel(logging.DEBUG if is_verbose else logging.WARNING if is_quiet else logging.INFO)
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        with refuse_os_errors(log_file):
            written = logging.FileHandler(log_file, encoding="utf-8")
        written.setFormatter(_Escaping("%(asctime)s %(levelname)s %(name)s %(message)s"))
        handlers.append(written)
    level = _ROOT.level
    _ROOT.setLevel(logging.DEBUG)
    for handler in handlers:
        _ROOT.addHandler(handler)
    try:
        yield CommandLog(console, is_quiet)
    finally:
        _ROOT.setLevel(level)
        for handler in handlers:
            _ROOT.removeHandler(handler)
            handler.close()


class _Escaping(logging.Formatter):
    """Writes control characters out: a log is read on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Prints records above the bars of a display on the same console; none is read as markup."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "Warning: " if record.levelno == logging.WARNING else ""
        text = Text(prefix + self.format(record), _STYLES[record.levelno])
        self._console.print(text, soft_wrap=True)
