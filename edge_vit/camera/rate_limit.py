"""Warnings that repeat, logged once a minute: a log of weeks must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time

_SILENCE_S = 60.0
_MAX_REASONS = 16  # that are logged within `_SILENCE_S`, however many there are


class RateLimitedWarnings:
    """Warnings of one place; the same one is logged again after a minute, with a count."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._logged: dict[str, tuple[float, int]] = {}  # reason -> when, and how often since

    def warn(self, reason: str, message: str) -> None:
        """Log `message`, unless `reason` was logged within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            logged_s, num_kept = self._logged.pop(reason, (float("-inf"), 0))
            if now_s - logged_s < _SILENCE_S:
                self._logged[reason] = logged_s, num_kept + 1
                return
            if len(self._logged) >= _MAX_REASONS:
                oldest = min(self._logged, key=lambda known: self._logged[known][0])
                if now_s - self._logged[oldest][0] < _SILENCE_S:
                    return
                del self._logged[oldest]
            self._logged[reason] = now_s, 0
        again = f" ({num_kept} more of them in between)" if num_kept else ""
        self._logger.warning("%s%s", message, again)
