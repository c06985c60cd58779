"""The user's own code, kept from ending the program, from our command line and from our stdout."""

from __future__ import annotations

import contextlib
import io
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from edge_vit.errors import EdgeVitError, SpecError
from edge_vit.export.sources.values import first_line

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib"))


class _Held(io.TextIOBase):
    """A stream that keeps what is written until it is released, and then passes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._kept: list[str] | None = []

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._kept is None:
            return self._stream.write(text)
        self._kept.append(text)
        return len(text)

    def flush(self) -> None:
        if self._kept is None:
            self._stream.flush()

    def take(self) -> str:
        """Return what was kept, and keep it no longer."""
        kept, self._kept = "".join(self._kept or ()), []
        return kept

    def release(self) -> None:
        """Pass on what was kept, and all that comes."""
        kept, self._kept = self.take(), None
        self._stream.write(kept)


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run the user's code inside the block.

    What it prints goes to stderr, since stdout is for results. It finds no arguments on its command
    line: those there are ours.

    Args:
        what: the beginning of a message, such as ``python:m:f: importing it failed``.

    Raises:
        SpecError: the code raises something, or ends the program.
    """
    held, argv = _Held(sys.stderr), sys.argv
    sys.argv = argv[:1]
    try:
        with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
            yield
    except EdgeVitError:
        raise
    except SystemExit as error:
        raise SpecError(f"{what}: {_describe_exit(error, held.take())}") from error
    except Exception as error:  # the user's code can raise anything
        raise SpecError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.argv = argv
        held.release()


def _describe_exit(error: SystemExit, printed: str) -> str:
    """Return which line ended the program, and what was printed last before."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    last = (own or list(frames))[-1]
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    remark = f" ({lines[-1][:150]})" if lines and error.code not in (None, 0) else ""
    code = "" if error.code is None else f" with {str(error.code)[:100]}"
    return (
        f"{Path(last.filename).name}, line {last.lineno}, ends the program{code}{remark}. Leave "
        "out what exits or reads the command line when the module is imported or the factory called"
    )
