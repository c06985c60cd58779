"""Calibration images that take no part in the plan, so that the plan can be judged on them.

A range that fits the images it was taken from too tightly clips the next ones, and rounding that
makes up for errors does so for images like those it saw. So near relatives of an image held out,
such as frames of one scene and crops of one photograph, are held out with it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.preprocess import UInt8Array
from edge_vit.graph.walk import Array

RELATED = 0.85
"""Cosine of two images' features, each channel's mean taken away and its spread made 1, from which
both are held out or neither. Of 64 crops of 36 photographs, DINOv2-S puts 5 of 28 pairs of one
photograph above it, and 3 of 1,988 others; as they are, two huge channels put 234 there."""

_CANDIDATES = 3  # times as many images as are held out have ranges of their own


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """The smallest and largest value of each channel of an activation, (channels,) float32."""

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
"""By the name of the value."""


@dataclass(frozen=True, eq=False)
class Kept:
    """One image: uint8 (height, width, 3) RGB as preprocessed, its ranges and features, (K,)."""

    pixels: UInt8Array
    ranges: Ranges
    feature: Array = field(default_factory=lambda: np.zeros(1, np.float32))


class HeldOut:
    """Keeps some images of a stream, those of the smallest digests, and the ranges of all others.

    Neither order nor repetition of the stream matters, and memory does not grow with it. Of the
    images kept, `count` are held out, by groups of related ones; the others shape the plan.

    Args:
        count: how many are held out.
        num_shaping: how many of the others are kept as well, so that they can be run again.

    Attributes:
        kept: by digest, the images of which some are held out.
        others: by digest, further ones that shape the plan; their ranges are in `rest`.
        rest: what all images beyond `kept` reach.
    """

    def __init__(self, count: int, num_shaping: int = 0) -> None:
        self._count, self._num_shaping = count, num_shaping
        self._num_candidates = _CANDIDATES * count if num_shaping else count
        self.kept: dict[str, Kept] = {}
        self.others: dict[str, Kept] = {}
        self.rest: Ranges = {}

    def add(self, digest: str, image: Kept) -> None:
        """Take the next image in."""
        if digest in self.kept:
            return
        self.__dict__.pop("split", None)
        self.kept[digest] = image
        if len(self.kept) > self._num_candidates:
            digest = max(self.kept)
            image = self.kept.pop(digest)
            self.rest = _merge(self.rest, image.ranges)
            self.others[digest] = replace(image, ranges={})
            if len(self.others) > self._num_shaping:
                del self.others[max(self.others)]

    @functools.cached_property
    def split(self) -> tuple[list[str], list[str]]:
        """Digests of the images held out, and of those that shape the plan; sorted."""
        candidates = sorted(self.kept)
        digests = [*candidates, *sorted(self.others)]
        if len(digests) <= self._count:
            return digests, []
        every = {**self.kept, **self.others}
        chosen, barred = list[int](), set[int]()
        groups = group_related([every[digest].feature for digest in digests])
        for group in groups:
            own = [index for index in group if index < len(candidates)]
            if own and len(chosen) + len(own) <= self._count:
                chosen += own
                barred |= set(group)
        # What no whole group fits into is filled from as few of the others as can be.
        open_ = (i for group in groups for i in group if i < len(candidates) and i not in barred)
        chosen += itertools.islice(open_, self._count - len(chosen))
        barred |= set(chosen)
        shaping = [digest for index, digest in enumerate(digests) if index not in barred]
        return [digests[index] for index in sorted(chosen)], shaping[: self._num_shaping]

    @property
    def images(self) -> tuple[UInt8Array, ...]:
        """The images held out, by digest."""
        return tuple(self.kept[digest].pixels for digest in self.split[0])

    @property
    def shaping(self) -> tuple[UInt8Array, ...]:
        """Those of the others that were kept, by digest."""
        every = {**self.kept, **self.others}
        return tuple(every[digest].pixels for digest in self.split[1])

    @property
    def ranges(self) -> Ranges:
        """What all images but those held out reach; all of them, where there are no others."""
        names = set(self.kept) - set(self.split[0])
        if not names and not self.rest:
            names = set(self.kept)
        return functools.reduce(_merge, (self.kept[name].ranges for name in names), self.rest)


def group_related(features: Sequence[Array]) -> list[list[int]]:
    """Return indices of `features`, (K,) each, in groups: whatever a chain of near ones joins.

    Groups are in the order of their first index.
    """
    rows = np.stack(features).astype(np.float64)
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    rows = (rows - mean) / np.where(spread > 1e-6 * np.abs(mean), spread, np.inf)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(lengths > 0, lengths, 1.0)
    is_near = rows @ rows.T >= RELATED
    groups, open_ = list[list[int]](), set(range(len(rows)))
    while open_:
        group, edge = set[int](), {min(open_)}
        while edge:
            group |= edge
            open_ -= edge
            edge = {int(i) for i in np.flatnonzero(is_near[list(edge)].any(axis=0))} & open_
        groups.append(sorted(group))
    return groups


def _merge(first: Ranges, second: Ranges) -> Ranges:
    return {name: first[name].merge(r) if name in first else r for name, r in second.items()}
