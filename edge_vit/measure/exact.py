"""Sums without rounding: the same total in any order and from any parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_UNIT_BITS = 1074  # 2^-1074 is the smallest float64 above 0, and every finite one a multiple of it
_DIGEST_BYTES = 256


def exact_sum(values: Iterable[float]) -> int:
    """Return the sum of finite float64 values in units of 2^-1074, without any rounding."""
    return sum(_units(value) for value in values)


def quotient(total: int, divisor: int = 1) -> float:
    """Return ``total / divisor``, rounded once; `total` is in the units of `exact_sum`."""
    return total / (divisor << _UNIT_BITS)


def add_digest(total: int, digest: str) -> int:
    """Return `total`, which stands for a set of images, with the image of `digest` added to it.

    Each digest is spread over 2048 bits and added modulo 2^2048 (Bellare and Micciancio 1997, A new
    paradigm for collision-free hashing): the order does not matter, the number of copies does.
    """
    spread = hashlib.shake_256(digest.encode()).digest(_DIGEST_BYTES)
    return add_totals(total, int.from_bytes(spread, "big"))


def add_totals(first: int, second: int) -> int:
    """Return the total of the images of both; see `add_digest`."""
    return (first + second) % (1 << 8 * _DIGEST_BYTES)


def digest_of_total(total: int, num_images: int) -> str:
    """Return the SHA-256 that names all images of `total`; see `add_digest`."""
    return hashlib.sha256(total.to_bytes(_DIGEST_BYTES, "big") + b"%d" % num_images).hexdigest()


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()  # the denominator is a power of 2
    return numerator << (_UNIT_BITS - denominator.bit_length() + 1)
