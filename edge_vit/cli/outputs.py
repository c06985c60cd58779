"""Files that results are written to: tried before any work, written whatever else fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import click

from edge_vit.cli.options import Parsed
from edge_vit.files import refuse_unwritable, refuse_unwritable_folder
from edge_vit.optional import refuse_missing

_LOG = logging.getLogger(__name__)


class OutputFile(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """The path of a file that can be written, which is found out when the command line is read.

    Args:
        suffixes: that the name may end in; any where there are none.
        html_needs: modules that a page is made with.
    """

    name = "file"

    def __init__(self, *suffixes: str, html_needs: tuple[str, ...] = ()) -> None:
        self._suffixes, self._html_needs = suffixes, html_needs

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return `value` as a path, refused where nothing can be written there."""
        path = Path(str(value))
        if self._suffixes and path.suffix not in self._suffixes:
            *others, last = self._suffixes
            wanted = f"{', '.join(others)} or {last}" if others else last
            option = param.opts[0] if param else "output"
            raise click.UsageError(f"{option} {path}: expected a name that ends in {wanted}")
        refuse_unwritable(path)
        for module in self._html_needs if path.suffix == ".html" else ():
            refuse_missing(module, f"writing {path}")
        return path


def _writable_folder(text: str) -> Path:
    refuse_unwritable_folder(Path(text))
    return Path(text)


ANY_FILE = OutputFile()
ANY_FOLDER = Parsed("folder", _writable_folder)
"""A folder, there or not, that files can be written into."""
REPORT_FILE = OutputFile(".html", ".md", ".json", html_needs=("jinja2", "matplotlib"))


def deliver(*steps: Callable[[], object]) -> None:
    """Take every step, such as printing and writing, even where an earlier one fails.

    Raises:
        Exception: the first failure, after all were tried; the others are logged.
    """
    failures: list[Exception] = []
    for step in steps:
        try:
            step()
        except Exception as error:
            failures.append(error)
    for other in failures[1:]:
        _LOG.error("%s", other)
    if failures:
        raise failures[0]
