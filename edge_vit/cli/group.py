"""The group of commands: loaded late, every failure one line; streams that are closed or full."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import IO, Any, TextIO

import click

from edge_vit.errors import ArtifactError, EdgeVitError
from edge_vit.optional import require as import_or_explain
from edge_vit.printable import printable

INTERRUPTED = 130

_LOG = logging.getLogger(__name__)
_ANYWHERE = ("--verbose", "-v", "--quiet", "-q")
_FAILED_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


class Failure(click.ClickException):
    """The end of a command: one red line, and an exit status."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(printable(" ".join(message.split())))
        self.exit_code = exit_status  # type: ignore[misc]  # click means it for classes

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line to stderr; where stderr takes nothing, the exit status remains."""
        with contextlib.suppress(OSError):
            click.secho(f"Error: {self.message}", file=file, err=file is None, fg="red")


class CommandGroup(click.Group):
    """Commands that lie in `edge_vit.cli.NAME`, each loaded when it is called.

    `summaries` has the name of each command and the first line of its help, in order.
    """

    def __init__(self, *, summaries: Mapping[str, str], **settings: Any) -> None:
        known = {name: click.Command(name, short_help=line) for name, line in summaries.items()}
        super().__init__(commands=known, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` call, loaded, and the rest of `args`."""
        name, known, rest = super().resolve_command(ctx, args)
        if name is None or known is None:
            return name, known, rest
        return name, importlib.import_module(f"edge_vit.cli.{name}").command, rest

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take ``--verbose`` and ``--quiet`` wherever they stand, as people type them last."""
        own = args[: args.index("--")] if "--" in args else args
        flags = [word for word in own if word in _ANYWHERE]
        words = [word for word in own if word not in _ANYWHERE]
        return super().parse_args(ctx, [*flags, *words, *args[len(own) :]])

    def make_context(self, *args: Any, **settings: Any) -> click.Context:
        """Return the context of what was typed."""
        with _printable_messages():
            return super().make_context(*args, **settings)

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run the command line; a terminal that lacks a character shows ``?`` in its place."""
        try:
            prepare_streams()
            with _terminated_as_interrupted(), write_stdout():
                return super().main(*args, **settings)
        except EdgeVitError as error:
            Failure(str(error), error.exit_status).show()
            sys.exit(error.exit_status)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was called."""
        try:
            with _printable_messages(), write_stdout():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click deals with these
        except KeyboardInterrupt:
            raise Failure("interrupted", INTERRUPTED) from None
        except Exception as error:
            _LOG.debug("traceback:", exc_info=True)
            raise _explain(error) from None


@contextlib.contextmanager
def _printable_messages() -> Iterator[None]:
    """Escape control characters in click's messages about a mistyped command."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]  # click means subclasses
        raise


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that its temporary files are removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: Exception) -> Failure:
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("edge_vit"):
        try:
            import_or_explain(str(error.name), "this command")
        except Exception as explained:
            error = explained
    if isinstance(error, EdgeVitError):
        return Failure(str(error), error.exit_status)
    if isinstance(error, OSError) and error.filename:
        return Failure(f"{error.filename}: {error.strerror}", 1)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(f"internal error ({what}). For a traceback run again with --verbose", 1)


def prepare_streams() -> None:
    """Make both streams take any character, and discard messages where stderr is closed.

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
    """Send what `stream` holds and will get to nowhere: Python writes it again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
