"""What goes wrong again and again, told once a minute: a log of weeks must not fill the disk."""

from __future__ import annotations

import logging
import threading
import time

_SILENCE_S = 60.0


class Complaints:
    """Warnings of one place; the same one is told again after a minute, with a count.

    Args:
        logger: where they go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._reason = ""
        self._told_s = 0.0
        self._num_kept = 0

    def tell(self, reason: str, message: str) -> None:
        """Log `message`, unless `reason` was told within the last minute and is no other.

        Args:
            reason: what went wrong, the same text for the same thing.
            message: that text and where it happened.
        """
        now_s = time.monotonic()
        with self._lock:
            if reason == self._reason and now_s - self._told_s < _SILENCE_S:
                self._num_kept += 1
                return
            again = f" ({self._num_kept} more like the last one)" if self._num_kept else ""
            self._reason, self._told_s, self._num_kept = reason, now_s, 0
        self._logger.warning("%s%s", message, again)
