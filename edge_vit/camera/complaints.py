"""What goes wrong again and again, told once a minute: a log of weeks must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time

_SILENCE_S = 60.0
_MAX_REASONS = 16  # that are told within `_SILENCE_S`, however many there are


class Complaints:
    """Warnings of one place; the same one is told again after a minute, with a count."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._told: dict[str, tuple[float, int]] = {}  # reason -> when, and how often since

    def tell(self, reason: str, message: str) -> None:
        """Log `message`, unless `reason` was logged within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            told_s, num_kept = self._told.pop(reason, (float("-inf"), 0))
            if now_s - told_s < _SILENCE_S:
                self._told[reason] = told_s, num_kept + 1
                return
            if len(self._told) >= _MAX_REASONS:
                oldest = min(self._told, key=lambda known: self._told[known][0])
                if now_s - self._told[oldest][0] < _SILENCE_S:
                    return
                del self._told[oldest]
            self._told[reason] = now_s, 0
        again = f" ({num_kept} more of them in between)" if num_kept else ""
        self._logger.warning("%s%s", message, again)
