"""Text files that other tools wrote: any Unicode encoding, any line ends."""

from __future__ import annotations

import codecs
from pathlib import Path

from edge_vit.printable import one_line

_MARKS = (  # UTF-32 first: its mark begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
MAX_TEXT_BYTES = 1 << 30
_MAX_SHOWN = 200


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: of the file.
        errors: what to do with bytes that are no UTF-8: ``surrogateescape`` keeps them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text in one of these encodings, or above `MAX_TEXT_BYTES`.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"it has more than {MAX_TEXT_BYTES >> 30} GiB")
    return decode_text(path.read_bytes(), errors)


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Return `data` as text; see `read_text`."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding:
        encoding = _guess_utf16(data) if b"\0" in data else "utf-8"
    try:
        text = data.decode(encoding, errors if encoding.startswith("utf-8") else "strict")
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"byte {error.start:,} is no {name}. Save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("it is no text")
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


def _guess_utf16(data: bytes) -> str:
    """The byte order of UTF-16 without a mark: most of a list is ASCII, every other byte 0."""
    for encoding, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[0::2])):
        if len(data) % 2 == 0 and 2 * high.count(0) > len(high):
            return encoding
    raise ValueError("it is no text")
