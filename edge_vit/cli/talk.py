"""What the command line says beside its results: on stderr, and in a log file where one is asked.

All of it goes through the logger ``edge_vit``: info for what happens, warning for what deserves
a look, debug for the rest.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from edge_vit.cli.console import MessageConsole
from edge_vit.cli.progress import ShownProgress, open_progress
from edge_vit.files import refuse_os_errors
from edge_vit.printable import printable

_ROOT = logging.getLogger("edge_vit")
_STYLES = {logging.DEBUG: "dim", logging.INFO: "", logging.WARNING: "yellow", logging.ERROR: "red"}


@dataclass(frozen=True)
class Talk:
    """The way to the person who waits.

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
def open_talk(*, is_verbose: bool, is_quiet: bool, log_file: Path | None) -> Iterator[Talk]:
    """Show what edge-vit logs on stderr, and write it to `log_file`, for the time of a block.

    Raises:
        ArtifactError: `log_file` cannot be written.
    """
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
        yield Talk(console, is_quiet)
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
