"""Files that a list names, as other systems spell their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path


def find_file(folder: Path, text: str) -> Path | None:
    """Return the file that a list in `folder` calls `text`; None where there is none.

    As it is written; else with its backslashes as slashes, in another composition of Unicode (a Mac
    writes é as two characters), or as Latin letters of Windows.
    """
    for name in _spellings(text):
        try:
            if name and (folder / name).is_file():
                return folder / name
        except (OSError, ValueError):  # too long, or with a null in it
            continue
    return None


def _spellings(text: str) -> Iterator[str]:
    stripped = text.strip()
    yield from (stripped, text)
    if len(stripped) > 2 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
        stripped = stripped[1:-1]
        yield stripped
    slashed = stripped.replace("\\", "/")
    yield slashed
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, slashed)
    if not text.isprintable():  # bytes that are no UTF-8
        data = slashed.encode("utf-8", "surrogateescape")
        yield data.decode("cp1252", "replace")
