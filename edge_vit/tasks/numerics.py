"""Activations, and how far two sets of rows are apart; all arithmetic is float64.

`reference` and `candidate` are (rows, values) arrays throughout, one row per image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.spec import Activation

FloatArray = NDArray[np.floating[Any]]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_LEAST = 1e-300


def softmax(logits: FloatArray) -> Float64Array:
    """Return the softmax of `logits` (..., classes) over the last axis; finite ones never overflow.

    The largest logit is subtracted first.
    """
    wide = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(wide - wide.max(axis=-1, keepdims=True))
    result: Float64Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: FloatArray) -> Float64Array:
    """Return the logistic function of each of `logits`, without overflow."""
    wide = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(wide))
    result: Float64Array = np.where(wide >= 0, 1.0, small) / (1 + small)
    return result


def log_softmax(logits: FloatArray) -> Float64Array:
    """Return the logarithm of the softmax of `logits` (..., classes), finite for finite ones."""
    wide = np.asarray(logits, np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    found: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def log_sigmoid(logits: FloatArray) -> Float64Array:
    """Return the logarithm of the logistic function of each of `logits`, finite for finite ones."""
    return -np.logaddexp(0, -np.asarray(logits, np.float64))


def activate(activation: Activation, outputs: FloatArray) -> Float64Array:
    """Return `outputs` (..., size) with `activation` applied over the last axis."""
    return _ACTIVATIONS[activation](np.asarray(outputs, np.float64))


_ACTIVATIONS: Mapping[Activation, Callable[[FloatArray], Float64Array]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda outputs: np.asarray(outputs, np.float64),
}


def cosine(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return the cosine of each pair of rows, (rows,), from -1 to 1.

    Two rows of zeros count as equal (1), one row of zeros as unrelated (0).
    """
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = (a * b).sum(axis=1) / np.where(product > 0, product, 1.0)
    # Equal rows are equal to the last bit, which rounding in the quotient must not hide.
    return np.where((a == b).all(axis=1), 1.0, np.clip(found, -1.0, 1.0))


def softmax_kl(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return KL(softmax(reference) || softmax(candidate)) of each pair of rows, (rows,), nats."""
    log_p, log_q = log_softmax(reference), log_softmax(candidate)
    kl: Float64Array = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(kl, 0.0)  # rounding can leave -1e-17, which no divergence is


def probability_kl(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return KL(reference || candidate) of rows of probabilities, (rows,), nats."""
    # The softmax of a logarithm gives the probabilities back, and makes their sum exactly 1.
    return softmax_kl(*(np.log(np.clip(x, _LEAST, None)) for x in (reference, candidate)))


def bernoulli_kl(
    reference: FloatArray, candidate: FloatArray, activation: Activation
) -> Float64Array:
    """Return KL of independent labels, summed over them, (rows,), nats.

    Both are logits where `activation` is ``sigmoid``, else what it makes probabilities of.
    """
    total = np.zeros(len(reference))
    if activation == "sigmoid":
        x, y = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
        for sign in (1, -1):
            on, off = log_sigmoid(sign * x), log_sigmoid(sign * y)
            total += (np.exp(on) * (on - off)).sum(axis=1)
        return np.maximum(total, 0.0)
    p, q = activate(activation, reference), activate(activation, candidate)
    for one, other in ((p, q), (1 - p, 1 - q)):
        one, other = np.clip(one, _LEAST, 1), np.clip(other, _LEAST, 1)
        total += (one * (np.log(one) - np.log(other))).sum(axis=1)
    return np.maximum(total, 0.0)


def relative_rms(reference: FloatArray, candidate: FloatArray, *, over_images: bool) -> float:
    """Return the root mean square error of (rows, values) over the spread of `reference`.

    The spread is the standard deviation from each row's own mean, since what is common to all
    classes is no difference; or, `over_images`, that of each column over the rows, of which the
    largest quotient counts. Without any spread it is the root mean square.
    """
    wanted = reference.astype(np.float64)
    # One figure for each column over images, or a single one for all.
    axis, of = (0, 0) if over_images else (-1, None)
    error = np.mean((candidate - wanted) ** 2, axis=of)
    spread = np.mean((wanted - wanted.mean(axis=axis, keepdims=True)) ** 2, axis=of)
    spread = np.where(spread > 0, spread, np.mean(wanted**2, axis=of))
    return float(np.sqrt(np.max(error / np.where(spread > 0, spread, 1.0))))


def relative_energy(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return the energy of the error over that of the reference of each row, (rows,).

    Axes after the first are taken together. A row of zeros counts as exact where the candidate is
    zero too, else as infinitely off.
    """
    axes = tuple(range(1, np.ndim(reference)))
    wide = np.asarray(reference, np.float64)
    noise = np.square(np.asarray(candidate, np.float64) - wide).sum(axis=axes)
    signal = np.square(wide).sum(axis=axes)
    return np.where(
        noise == 0, 0.0, np.divide(noise, signal, out=np.full(len(wide), np.inf), where=signal > 0)
    )


def in_top_k(logits: FloatArray, labels: IntArray, k: int) -> BoolArray:
    """Return whether each of `labels`, (rows,), is among the `k` largest of its row; ties by index.

    `logits` are (rows, classes).
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead: IntArray = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return ahead < k
