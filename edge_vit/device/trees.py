"""Files that the kernel keeps: a fact that is missing, forbidden or garbage is simply not known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

_LARGEST_TEXT = 1 << 16


def read_text(path: Path) -> str:
    """Return the text at `path` without zero bytes and white space around it; "" if unreadable."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_TEXT)
    except OSError:
        return ""
    return data.decode(errors="replace").strip("\0 \t\r\n")


def read_number(path: Path) -> float | None:
    """Return the finite number at `path`, or None."""
    return parse_number(read_text(path))


def parse_number(text: str) -> float | None:
    """Return the finite number that `text` is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def list_paths(folder: Path, pattern: str) -> list[Path]:
    """Return what matches `pattern` in `folder`, ``zone2`` before ``zone10``; [] if unreadable."""
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda path: (int([-1, *re.findall(r"\d+", path.name)][-1]), path))


def first_text(paths: Iterable[Path]) -> str:
    """Return the first text that is there."""
    return next(filter(None, map(read_text, paths)), "")
