"""Numbers as people read them: one spelling each, in the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from edge_vit.measure.results import FindingOutcome, Outcome

MISSING = "–"
YES_NO = {True: "yes", False: "no", None: ""}

OUTCOME_WORDS: dict[Outcome | FindingOutcome, tuple[str, str]] = {
    "pass": ("✓", "pass"),
    "fail": ("✕", "fail"),
    "undecided": ("?", "undecided"),
    "note": ("·", "note"),
}
"""Sign and word of each outcome: colour alone would not reach everybody."""


def is_known(value: float | None) -> TypeGuard[float]:
    """Say whether `value` is a number that can be told: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def percent(rate: float | None, decimals: int = 2) -> str:
    """Return a rate from 0 to 1 as ``97.25 %``."""
    return MISSING if not is_known(rate) else f"{100 * rate:.{decimals}f} %"


def number(value: float | None, decimals: int = 2) -> str:
    """Return `value` with its thousands apart from 10 000 on: ``1204.50``, ``12 040.00``."""
    if not is_known(value):
        return MISSING
    if abs(value) < 10_000:
        return f"{value:.{decimals}f}"
    # the SI's separator is a narrow space; a comma would be a decimal sign to half of us
    return f"{value:,.{decimals}f}".replace(",", "\u202f")


def significant(value: float | None) -> str:
    """Return `value` with three significant digits: ``0.00412``, ``12.3``, ``1204``."""
    if not is_known(value):
        return MISSING
    return number(value, 0) if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def measured(value: float | None) -> str:
    """Return what stands beside a limit, close enough to tell the two apart: ``1.046``, ``0.5``."""
    return MISSING if not is_known(value) else f"{value:.4g}"


def span(low: float | None, high: float | None) -> str:
    """Return an interval as ``0.12 – 3.40``, or nothing where neither end is known."""
    if low is None and high is None:
        return MISSING
    return f"{significant(low)} – {significant(high)}"


def ratio(value: float | None) -> str:
    """Return a ratio as ``1.72×``, rounded down: what is below a limit never reads as the limit."""
    return MISSING if not is_known(value) else f"{math.floor(value * 100 + 1e-9) / 100:.2f}×"


def count(value: int, noun: str) -> str:
    """Return ``1 image`` or ``2000 images``."""
    return f"{number(value, 0)} {noun}{'' if value == 1 else 's'}"


def megabytes(num_bytes: int) -> str:
    """Return a file's size: bytes, kB or MB (powers of ten)."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    return f"{num_bytes / 1e3:.1f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:.1f} MB"


def short_digest(digest: str) -> str:
    """Return the first 12 characters: enough to tell files apart."""
    return digest[:12]


def listing(words: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
