"""Text from outside, such as labels and file names, made safe to show on a terminal."""

from __future__ import annotations

import re
import unicodedata

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1: escape sequences
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # these turn or break the line around them
    "\ufeff\U000e0000-\U000e007f"  # invisible
    "\ud800-\udfff]"  # half a character: a byte of a file name that is no UTF-8
)
_NOT_ASCII = re.compile("[^\n -~]")
_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # PEP 383: bytes 80 to ff


def printable(text: str) -> str:
    r"""Return `text` with every character that a terminal would obey or hide written out.

    An escape character becomes ``\x1b``, a right-to-left override ``\u202e``, a byte of a file name
    that is no UTF-8 its ``\xff``. Tabs, newlines and all letters stay.
    """
    return _UNSAFE.sub(_write_out, text)


def one_line(text: str) -> str:
    r"""Return `text` printable and without line breaks and tabs, which become ``\n`` and ``\t``."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def in_ascii(text: str) -> str:
    """Return `text` in the letters that Pillow's own font has: accents are left off, the rest is ?.

    Tür is Tur, and 2 × Tür 2 x Tur.
    """
    plain = unicodedata.normalize("NFKD", text.replace("×", "x").replace("ß", "ss"))
    letters = (each for each in plain if not unicodedata.combining(each))
    return _NOT_ASCII.sub("?", "".join(letters))


def escape_json(text: str, *, ascii_only: bool = False) -> str:
    r"""Return JSON `text` with the same characters as ``\u`` escapes: it parses as before.

    Half characters alone are written out, since strict parsers refuse them; with `ascii_only` all
    letters beyond ASCII are. `text` is what `json.dumps` writes with ``ensure_ascii=False``.
    """
    return (_NOT_ASCII if ascii_only else _UNSAFE).sub(_write_out_as_json, text)


def _write_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code in _ESCAPED_BYTES:
        code -= 0xDC00
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def _write_out_as_json(match: re.Match[str]) -> str:
    if "\ud800" <= match[0] <= "\udfff":
        return "\\" + _write_out(match)
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which frame_2 comes before frame_10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
