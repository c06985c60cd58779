"""Pixels by address ``noise:N``: N seeded images."""

from __future__ import annotations

import numpy as np

from edge_vit.data.images import ArraySource
from edge_vit.data.registry import SourceKind

NOISE = SourceKind(
    "noise", "noise:N", "N random images", images=f"{__name__}:open_noise", schemes=("noise",)
)


def open_noise(address, wanted):
    """Return the images, each of 20 x 20 pixels."""
    count = int(address.partition(":")[2])
    return ArraySource(np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), np.uint8))
