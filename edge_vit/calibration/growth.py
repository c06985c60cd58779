"""Whether the calibration images are enough: how far those held out reach beyond the others."""

from __future__ import annotations

import numpy as np

from edge_vit.calibration.observer import Observation

MAX_GROWTH = 1.1
"""How far beyond the range of the others an image may reach: each new one reaches a little."""

MAX_SHARE = 0.25
"""Of the layers, that may be reached beyond."""


def say_growth(seen: Observation) -> str:
    """Return a sentence where the images held out leave the ranges of many layers, else nothing."""
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
        f"{len(seen.held_out)} images held out reach more than {MAX_GROWTH - 1:.0%} beyond the "
        f"ranges of the others in {len(beyond)} of {len(growth)} layers, most at {worst} "
        f"({growth[worst]:.2f} times): the images are few or too alike. More, and more different "
        "ones, make INT8 better"
    )
