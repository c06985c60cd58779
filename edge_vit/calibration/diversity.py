"""Whether the calibration images are enough, and different enough."""

from __future__ import annotations

import numpy as np

from edge_vit.calibration.observer import Observation
from edge_vit.graph.walk import Array

MAX_GROWTH = 1.1
"""How far beyond the range of the others an image may reach: each new one reaches a little."""

MAX_SHARE = 0.25
"""Of the layers, that may be reached beyond."""

MIN_RANK = 1.3
"""Effective rank below which images are too alike: of DINOv2-S, 8 frames of one scene have 1.2, 8
photographs 3.7; of a small model of digits, 8 digits have 1.3."""

_ANSWER = "Calibrate on images of other scenes, other light and other times"


def effective_rank(features: Array) -> float:
    """Return as how many wholly different images the rows of `features`, (N, K), count: 1 to N.

    The exponential of the entropy of the eigenvalues of their cosine similarities, over N (the
    Vendi score, Friedman and Dieng 2023): 1 where all rows point one way, N where no two do.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True).astype(np.float64)
    units = features / np.where(lengths > 0, lengths, 1.0)
    shares = np.linalg.eigvalsh(units @ units.T / max(1, len(units)))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def say_diversity(seen: Observation) -> tuple[str, ...]:
    """Return a sentence for each thing that the images lack; nothing where they are enough."""
    return tuple(filter(None, (_say_alike(seen), _say_growth(seen))))


def _say_alike(seen: Observation) -> str:
    total, distinct = len(seen.image_digests), len(set(seen.image_digests))
    if total > 1 and distinct == 1:
        return f"all {total} calibration images are the same one. {_ANSWER}"
    rank = effective_rank(seen.features)
    if len(seen.features) < 2 or rank >= MIN_RANK:
        return ""
    return (
        f"the {distinct} different calibration images are too alike, such as frames of one scene: "
        f"to the model they count as {rank:.1f} (effective rank of their features). {_ANSWER}"
    )


def _say_growth(seen: Observation) -> str:
    """Return a sentence where the images held out leave the ranges of many layers."""
    if not seen.shaping:  # then the ranges are those of the images held out
        return ""
    growth = {}
    for name, stats in seen.stats.items():
        ranges = seen.ranges[name]
        reached = float(np.maximum(ranges.high, -ranges.low).max())
        growth[name] = stats.amax / reached if reached else 1.0
    beyond = [name for name, times in growth.items() if times > MAX_GROWTH]
    if len(beyond) <= MAX_SHARE * len(growth):
        return ""
    worst = max(growth, key=lambda name: growth[name])
    return (
        f"the last {len(seen.held_out)} of {len(set(seen.image_digests))} calibration images widen "
        f"the ranges of {len(beyond)} of {len(growth)} layers by more than {MAX_GROWTH - 1:.0%}, "
        f"most at {worst} ({growth[worst]:.2f} times): the images are too few. Calibrate on more, "
        "and more different ones"
    )
