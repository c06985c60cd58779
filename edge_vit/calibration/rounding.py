"""Rounds a layer's weights so that the errors of its rows make up for each other (GPTQ).

Rounded to nearest, the errors of a column add up where input channels are correlated, as those of a
trained Vision Transformer are. Here each weight is rounded in turn, and the weights of its column
that are still to come take over what the output would lose: Frantar et al. 2022, largest channel
first. Scales stay as they are, so that nothing changes at run time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.gram import Gram
from edge_vit.graph.walk import Array
from edge_vit.lowering.qdq import QMAX

DAMPING = 0.05
"""Added to the diagonal, as a share of its mean: what keeps few images from being fitted."""

MAX_DEPENDENT = 0.1
"""Share of channels that may follow from the others, before the images say too little."""

_TINY = 1e-5  # of a channel's own variance: what is left below it follows from the others
_BLOCK = 64
_SMALLEST_INVERSE = 96


@dataclass(frozen=True, eq=False)
class Compensator:
    """Who makes up for whose rounding error, in units of a reference scaling of channels."""

    order: npt.NDArray[np.intp]  # (K,), in which rows are rounded
    # (K, K) float32, upper triangular in that order: what of row i's error row j takes
    shares: npt.NDArray[np.float32]
    reference: npt.NDArray[np.float32]  # (K,), by which the channels were divided
    _made: dict[bytes, npt.NDArray[np.int8]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, gram: Gram, reference: Array, first: Sequence[int] = (), *, is_centered: bool
    ) -> Compensator | None:
        """Return what `gram` says, or None where too many channels follow from the others.

        `reference`: (K,), by which the channels are divided so that damping treats all alike.
        `first`: channels that are rounded before the others, which may then be left out.
        `is_centered`: the layer has a bias, which takes the mean error out.
        """
        if gram.num_rows <= len(reference):
            return None
        scale = 1 / np.asarray(reference, np.float64)
        moments = gram.moments(is_centered=is_centered)  # in place from here on: it may be large
        moments *= scale[:, None]
        moments *= scale
        diagonal = np.diagonal(moments).copy()
        dead = ~(diagonal > 1e-12 * max(diagonal.max(initial=0), 1e-30))
        if dead.all() or not np.isfinite(diagonal).all():
            return None
        moments[dead] = 0
        moments[:, dead] = 0
        typical = float(diagonal[~dead].mean())
        np.fill_diagonal(moments, np.where(dead, typical, diagonal))
        is_later = np.ones(len(moments), bool)
        is_later[list(first)] = False
        order = np.lexsort((-np.diagonal(moments), is_later))
        moments = moments[np.ix_(order, order)]
        if _num_dependent(moments) > MAX_DEPENDENT * len(order):
            return None
        moments[np.diag_indices_from(moments)] += DAMPING * typical
        lower = np.linalg.cholesky(moments[::-1, ::-1])
        del moments
        upper = _invert_lower(lower)[::-1, ::-1]  # upper^T upper is the inverse of the moments
        del lower
        upper /= np.diagonal(upper).copy()[:, None]
        shares = np.ascontiguousarray(upper, np.float32)
        return cls(order, shares, np.asarray(reference, np.float32))

    def round(self, weight: Array, scales: Array, divisors: Array) -> npt.NDArray[np.int8]:
        """Return the levels of `weight`, int8 (K, N), -127 to 127; kept for when it comes again.

        `scales`: (N,), of the levels. `divisors`: (K,), by which the input's channels are divided.
        """
        given = hashlib.blake2b(digest_size=16)
        for array in (weight, scales, divisors):
            given.update(np.asarray(array).tobytes())
        if (key := given.digest()) not in self._made:
            self._made[key] = self._round(weight, scales, divisors)
        return self._made[key]

    def _round(self, weight: Array, scales: Array, divisors: Array) -> npt.NDArray[np.int8]:
        factor = (self.reference / divisors).astype(np.float32)[self.order, None]
        # Kept in the reference's units, in which `shares` says what a later row takes over.
        left = np.asarray(weight, np.float32)[self.order] * factor
        levels = np.empty(left.shape, np.int8)
        inverse, scales = 1 / np.asarray(scales, np.float32), np.asarray(scales, np.float32)
        for start in range(0, len(left), _BLOCK):
            end = min(start + _BLOCK, len(left))
            errors = np.empty((end - start, left.shape[1]), np.float32)
            for row in range(start, end):
                exact = left[row] / factor[row]
                rounded = np.clip(np.rint(exact * inverse), -QMAX, QMAX)
                levels[row] = rounded
                errors[row - start] = error = (exact - rounded * scales) * factor[row]
                left[row + 1 : end] -= self.shares[row, row + 1 : end, None] * error
            left[end:] -= self.shares[start:end, end:].T @ errors
        restored = np.empty_like(levels)
        restored[self.order] = levels
        return restored


def choose_reference(gram: Gram, weight: Array, *, is_centered: bool) -> Array:
    """Return what `Compensator.of` divides the channels by, (K,) float64.

    A model whose channels are larger, and the weights behind them smaller by as much, is the same
    model: it is rounded to the same levels.

    `weight`: (K, N), of all layers that read the channels.
    """
    variance = np.diagonal(gram.moments(is_centered=is_centered))
    spread = np.sqrt(np.maximum(variance, 0.0))  # of a constant channel, rounding leaves less
    reach = np.linalg.norm(weight.astype(np.float64), axis=1)
    is_alive = (spread > 0) & (reach > 0)
    reference: Array = np.sqrt(np.where(is_alive, spread, 1.0) / np.where(is_alive, reach, 1.0))
    return reference


def _num_dependent(moments: Array) -> int:
    """Return how many channels are a combination of the ones before them."""
    diagonal = np.diagonal(moments).copy()
    np.fill_diagonal(moments, diagonal + _TINY * diagonal)
    try:
        lower = np.linalg.cholesky(moments)
    except np.linalg.LinAlgError:
        return len(moments)
    finally:  # a copy would be as large again
        np.fill_diagonal(moments, diagonal)
    return int((np.square(np.diagonal(lower)) < 3 * _TINY * diagonal).sum())


def _invert_lower(lower: Array) -> Array:
    """Return the inverse of a lower triangular matrix, by halves."""
    size = len(lower)
    if size <= _SMALLEST_INVERSE:
        return np.tril(np.linalg.inv(lower))
    half = size // 2
    inverse = np.zeros_like(lower)
    inverse[:half, :half] = first = _invert_lower(lower[:half, :half])
    inverse[half:, half:] = second = _invert_lower(lower[half:, half:])
    inverse[half:, :half] = -second @ (lower[half:, :half] @ first)
    return inverse
