"""How far two maps are apart, image by image: (rows, height, width) or (rows, channels, …)."""

from __future__ import annotations

import numpy as np

from edge_vit.tasks.numerics import Float64Array, FloatArray


def as_channels(values: FloatArray) -> FloatArray:
    """Return maps as (rows, channels, height, width)."""
    return values if values.ndim == 4 else values[:, None]


def mean_absolute_error(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return the mean absolute difference of the values of each row, (rows,)."""
    difference = np.abs(np.asarray(candidate, np.float64) - reference)
    found: Float64Array = difference.reshape(len(difference), -1).mean(axis=1)
    return found


def correlation(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return Pearson's correlation of each pair of maps, (rows,), -1 to 1.

    Of several channels each is centred by itself, and their covariances and variances are added up.
    Equal maps have 1, even flat ones; a flat map and another one 0.
    """
    first, other = (_centred(each) for each in (reference, candidate))
    product = np.sqrt(np.square(first).sum(axis=1) * np.square(other).sum(axis=1))
    found = (first * other).sum(axis=1) / np.where(product > 0, product, 1.0)
    is_same = (np.asarray(reference) == candidate).reshape(len(first), -1).all(axis=1)
    return np.where(is_same, 1.0, np.clip(found, -1.0, 1.0))


def principal_colours(values: FloatArray) -> Float64Array:
    """Return the three directions in which cells differ most, (channels, 3), of (channels, h, w).

    Their sign is fixed: the entry that is largest without it is positive.
    """
    cells = _centred(values[None]).reshape(len(values), -1)
    _, vectors = np.linalg.eigh(cells @ cells.T)
    chosen = vectors[:, ::-1][:, :3]
    chosen = np.pad(chosen, ((0, 0), (0, 3 - chosen.shape[1])))
    largest = np.take_along_axis(chosen, np.abs(chosen).argmax(axis=0)[None], axis=0)
    return chosen * np.where(largest < 0, -1.0, 1.0)


def _centred(values: FloatArray) -> Float64Array:
    """Return maps less the mean of each channel, (rows, channels * cells)."""
    wide = np.asarray(as_channels(values), np.float64)
    centred: Float64Array = wide - wide.mean(axis=(2, 3), keepdims=True)
    return centred.reshape(len(wide), -1)
