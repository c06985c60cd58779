"""How long a live source may be silent, and how soon it is tried again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from edge_vit.errors import SpecError


@dataclass(frozen=True)
class RetryPolicy:
    """How long a live source may be silent, and when it is tried again.

    Attributes:
        stale_after_s: silence after which it is closed and opened anew.
        open_timeout_s: what opening it, up to its first frame, may take.
        first_retry_s: before the first try to open it anew; doubles with every try that fails.
        max_retry_s: what that grows to. A source that ran for so long counts as well again.
        jitter: share of a pause that chance takes away, so that many devices do not knock at once.
    """

    stale_after_s: float = 5.0
    open_timeout_s: float = 15.0
    first_retry_s: float = 0.5
    max_retry_s: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 < getattr(self, field.name) < float("inf"):
                raise SpecError(f"{field.name}: got {getattr(self, field.name)}, expected above 0")

    def retry_ns(self, num_failures: int, chance: float) -> int:
        """Return the pause, nanoseconds, after failures in a row; `chance` 0 gives the longest."""
        seconds = min(self.first_retry_s * 2.0 ** min(num_failures - 1, 30), self.max_retry_s)
        return round(seconds * (1 - self.jitter * chance) * 1e9)
