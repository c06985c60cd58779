"""Text files that other tools wrote: UTF-8 or UTF-16, any line ends."""

from __future__ import annotations

import codecs
from pathlib import Path

from edge_vit.printable import one_line

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MAX_SHOWN = 200


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    `errors` is for bytes that are no UTF-8: ``surrogateescape`` keeps them. Raises OSError, and
    ValueError for what is no such text.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding, "strict" if encoding == "utf-16" else errors)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"byte {error.start:,} is no {name}. Save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it is no text. Save it as UTF-8")
    return text.removeprefix("\ufeff")


def split_lines(text: str) -> list[str]:
    r"""Return the lines of `text`, which end in ``\n``, ``\r\n`` or ``\r`` and nothing else.

    `str.splitlines` also cuts at form feeds, U+0085 and U+2028, which may be part of a name.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def shorten(text: str) -> str:
    """Return `text` on one line for a message: if it is long, its beginning and its end."""
    text = one_line(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN // 2]}…{text[-20:]}"
