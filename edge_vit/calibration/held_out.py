"""Calibration images that take no part in the ranges, so that a choice can be judged on them.

A range that fits the images it was taken from too tightly clips the next ones. Judged on images
that the range has not seen, such a choice loses.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.preprocess import UInt8Array


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """What an activation's channels reach.

    Attributes:
        low: (channels,) float32, smallest value of each.
        high: (channels,) float32, largest.
    """

    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]

    @classmethod
    def of(cls, stats: ActivationStats) -> ChannelRange:
        """Return the range that `stats` tell."""
        return cls(stats.channel_min, stats.channel_max)

    def merge(self, other: ChannelRange) -> ChannelRange:
        """Return the range that holds both."""
        return ChannelRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


Ranges = Mapping[str, ChannelRange]
"""By the name of what reaches them."""


@dataclass(frozen=True, eq=False)
class HeldOutState:
    """What `HeldOut` knows.

    Attributes:
        rest: ranges of the images that were not held out.
        kept: by digest, the images held out, each with its ranges.
        shaping: by digest, the others that were kept.
    """

    rest: Ranges
    kept: dict[str, tuple[UInt8Array, Ranges]]
    shaping: dict[str, UInt8Array]


class HeldOut:
    """Keeps some images of a stream, and the ranges of all the others.

    Which ones are kept follows from their content alone, those of the smallest digests: neither
    order nor repetition matters. Memory does not grow with the stream.

    Args:
        count: how many to keep; with 0, ranges are of all.
        num_shaping: how many of the others are kept as well, so that they can be run again.
    """

    def __init__(self, count: int, num_shaping: int = 0) -> None:
        self._count, self._num_shaping = count, num_shaping
        self._kept: dict[str, tuple[UInt8Array, Ranges]] = {}
        self._shaping: dict[str, UInt8Array] = {}
        self._rest: Ranges = {}

    def add(self, digest: str, pixels: UInt8Array, ranges: Ranges) -> None:
        """Take the next image in.

        Args:
            digest: of `pixels`.
            pixels: uint8 (height, width, 3) RGB, as preprocessed.
            ranges: of this image alone.
        """
        if digest in self._kept:
            return
        self._kept[digest] = (pixels, ranges)
        if len(self._kept) > self._count:
            digest = max(self._kept)
            pixels, ranges = self._kept.pop(digest)
            self._rest = _merge(self._rest, ranges)
            self._shaping[digest] = pixels
            if len(self._shaping) > self._num_shaping:
                del self._shaping[max(self._shaping)]

    @property
    def state(self) -> HeldOutState:
        """All that there is, for a file."""
        return HeldOutState(self._rest, self._kept, self._shaping)

    @state.setter
    def state(self, state: HeldOutState) -> None:
        self._rest, self._kept, self._shaping = state.rest, state.kept, state.shaping

    @property
    def images(self) -> tuple[UInt8Array, ...]:
        """The images that were kept, by digest."""
        return tuple(self._kept[digest][0] for digest in sorted(self._kept))

    @property
    def shaping(self) -> tuple[UInt8Array, ...]:
        """Those of the others that were kept as well, by digest."""
        return tuple(self._shaping[digest] for digest in sorted(self._shaping))

    @property
    def ranges(self) -> Ranges:
        """What the other images reach; all of them, where there are no others."""
        if self._rest:
            return self._rest
        return functools.reduce(_merge, (ranges for _, ranges in self._kept.values()), {})


def _merge(first: Ranges, second: Ranges) -> Ranges:
    return {name: first[name].merge(r) if name in first else r for name, r in second.items()}
