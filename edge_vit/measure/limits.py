"""What the user asks of a precision before it may ship."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_vit.errors import SpecError
from edge_vit.measure.score_gates import MAX_ERROR

MIN_AGREEMENT = 90.0
"""Default limit of agreement, in percent: what differs from fp32 on more than one image in ten is
another model, whatever its accuracy on these images."""


@dataclass(frozen=True)
class Limits:
    """Limits of a verdict; what is None is not asked.

    Attributes:
        max_drop: of accuracy against fp32, in points (percent of the images).
        min_speedup: median latency of the baseline over that of the candidate.
        min_agreement: images with the same prediction as fp32, in percent: none is asked where
            None.
        max_p99_ms: 99th percentile of the latency, in milliseconds.
        max_slowdown: median latency over that of an earlier report, where one is given.
        max_error: of a regression model's scores against fp32: mean absolute difference, in percent
            of the spread of fp32's values.
    """

    max_drop: float = 0.5
    min_speedup: float = 1.05
    min_agreement: float | None = MIN_AGREEMENT
    max_p99_ms: float | None = None
    max_slowdown: float = 1.05
    max_error: float = MAX_ERROR

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise SpecError(f"max_drop: got {self.max_drop}, expected 0 points or more")
        if not (math.isfinite(self.min_speedup) and self.min_speedup > 0):
            raise SpecError(f"min_speedup: got {self.min_speedup}, expected a ratio above 0")
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 100:
            raise SpecError(f"min_agreement: got {self.min_agreement}, expected 0 to 100 percent")
        if self.max_p99_ms is not None and not self.max_p99_ms > 0:
            raise SpecError(f"max_p99_ms: got {self.max_p99_ms}, expected more than 0 milliseconds")
        if not (math.isfinite(self.max_error) and self.max_error >= 0):
            raise SpecError(f"max_error: got {self.max_error}, expected 0 percent or more")
        if not (math.isfinite(self.max_slowdown) and self.max_slowdown >= 1):
            raise SpecError(f"max_slowdown: got {self.max_slowdown}, expected a ratio of 1 or more")
