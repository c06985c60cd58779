"""Attention rollout, and how alike two maps are: pure numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BRIGHTEST = 0.1
"""Share of the patches whose overlap is counted."""


def roll_out(attentions: Sequence[npt.NDArray[np.floating]]) -> FloatArray:
    """Return how much of each input token is in each output token, (tokens, tokens), rows sum to 1.

    Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers (ACL): each block passes on
    half of what it gets unchanged, through its residual connection, and half as its attention
    weighs it, averaged over heads: the product over blocks of ``(A + I) / 2``.

    Args:
        attentions: probabilities of each block, first to last, (heads, tokens, tokens) each.
    """
    rolled: FloatArray = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        mean = attention.astype(np.float64).mean(axis=0)
        mixed = (mean + np.eye(len(mean))) / 2
        rolled = (mixed / mixed.sum(axis=1, keepdims=True)) @ rolled
    return rolled


def map_of(rolled: FloatArray, weights: FloatArray, rows: int, columns: int) -> FloatArray:
    """Return where the answer comes from, (rows, columns), adding up to 1.

    Args:
        rolled: of `roll_out`.
        weights: of each output token in the answer, (tokens,).
        rows: of patches, which are the last tokens.
        columns: of patches.
    """
    patches = (weights @ rolled)[-rows * columns :]
    total = patches.sum()
    flat = patches / total if total > 0 else np.full(len(patches), 1 / len(patches))
    return np.asarray(flat.reshape(rows, columns))


def correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Pearson's correlation of two maps; 1 where both are flat, 0 where one is."""
    a, b = first.reshape(-1) - first.mean(), second.reshape(-1) - second.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if np.allclose(first, second) else 0.0
    return float(np.clip(a @ b / norms, -1, 1))


def overlap(first: FloatArray, second: FloatArray) -> float:
    """Return the share of the brightest tenth of the patches that both maps have in common."""
    count = max(1, math.ceil(BRIGHTEST * first.size))
    brightest = [set(np.argsort(-m, axis=None, kind="stable")[:count]) for m in (first, second)]
    return len(brightest[0] & brightest[1]) / count
