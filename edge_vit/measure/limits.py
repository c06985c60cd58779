"""What the user asks of a precision before it may ship."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_vit.errors import SpecError
from edge_vit.measure.gates import MAX_ERROR
from edge_vit.values import settle

MIN_AGREEMENT = 90.0
"""Default limit of agreement, in percent: what differs from fp32 on more than one image in ten is
another model, whatever its accuracy on these images."""


@dataclass(frozen=True)
class Limits:
    """Limits of a verdict; what is None is not asked."""

    max_drop: float = 0.5  # of accuracy against fp32, in points (percent of the images)
    min_speedup: float = 1.05  # median latency of the baseline over that of the candidate
    min_agreement: float | None = MIN_AGREEMENT  # with fp32's prediction, percent of the images
    max_p99_ms: float | None = None
    max_slowdown: float = 1.05  # median latency over that of an earlier report, where there is one
    max_error: float = MAX_ERROR  # of scores: mean difference in percent of fp32's spread

    def __post_init__(self) -> None:
        settle(self)
        agreement, p99_ms = self.min_agreement, self.max_p99_ms
        for name, is_fine, wanted in (
            ("max_drop", self.max_drop >= 0, "0 points or more"),
            ("min_speedup", self.min_speedup > 0, "a ratio above 0"),
            ("min_agreement", agreement is None or 0 <= agreement <= 100, "0 to 100 percent"),
            ("max_p99_ms", p99_ms is None or p99_ms > 0, "more than 0 milliseconds"),
            ("max_error", self.max_error >= 0, "0 percent or more"),
            ("max_slowdown", self.max_slowdown >= 1, "a ratio of 1 or more"),
        ):
            value = getattr(self, name)
            if not is_fine or (value is not None and not math.isfinite(value)):
                raise SpecError(f"{name}: got {value:g}, expected {wanted}")
