"""Which frames of a video a model reads: their number, their distance, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_vit.errors import SpecError
from edge_vit.values import settle

Sampling = Literal["center", "start", "spread"]


@dataclass(frozen=True)
class ClipSpec:
    """The frames that a model of clips takes out of a video.

    By "center" they are `stride` frames apart in the middle of the video, by "start" at its
    beginning; by "spread" they lie evenly over the whole video, whatever `stride` is.
    """

    frames: int
    stride: int = 1
    sampling: Sampling = "center"

    def __post_init__(self) -> None:
        settle(self)
        for name in ("frames", "stride"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} of a clip: got {getattr(self, name)}, expected 1 or more")

    @property
    def span(self) -> int:
        """Frames of a video from the first one that is read to the last."""
        return (self.frames - 1) * self.stride + 1

    def indices(self, count: int) -> tuple[int, ...]:
        """Return which of `count` frames are read, `frames` of them, in order.

        Of a video that is shorter than `span` the last frame is repeated, as SlowFast's loaders do;
        "spread" is the rule of transformers' video processors.
        """
        if count < 1:
            raise SpecError("a clip: got no frames, expected at least 1")
        if self.sampling == "spread":
            return tuple(index * count // self.frames for index in range(self.frames))
        start = max(0, (count - self.span) // 2) if self.sampling == "center" else 0
        return tuple(min(start + index * self.stride, count - 1) for index in range(self.frames))

    def __str__(self) -> str:
        if self.sampling == "spread":
            return f"{self.frames} frames, spread over the video"
        place = "in its middle" if self.sampling == "center" else "from its start"
        apart = "" if self.stride == 1 else f", {self.stride} apart"
        return f"{self.frames} frames{apart}, {place}"
