"""What listens to TensorRT while it works: the log that keeps the last words, and the monitor.

Both are called from TensorRT's own threads.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

_LOG = logging.getLogger(__name__)
_KEPT = 32

Severity = Literal["error", "warning"]

# What stands in front of the words: where in TensorRT's own source, and a number.
_PLACE = re.compile(r"^(?:\[[^\]]*\]\s*)?(?:[\w:]+: )?(?:Error Code \d+: )?")
_INSIDE = re.compile(r"\.?\s*\bIn [\w:~<>]+ at \S+?:\d+")


@dataclass(frozen=True)
class Complaint:
    """One thing that TensorRT warned of or failed at, on one line."""

    severity: Severity
    text: str


class Complaints:
    """The last warnings and errors of TensorRT, the oldest first; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Complaint] = deque(maxlen=_KEPT)

    def add(self, severity: Severity, text: str) -> None:
        """Keep `text`, and log it at debug level."""
        complaint = Complaint(severity, tidy(text))
        with self._lock:
            self._kept.append(complaint)
        _LOG.debug("TensorRT %s: %s", severity, complaint.text)

    def clear(self) -> None:
        """Forget what was said before the step that comes now."""
        with self._lock:
            self._kept.clear()

    @property
    def all(self) -> tuple[Complaint, ...]:
        """What was kept."""
        with self._lock:
            return tuple(self._kept)

    @property
    def errors(self) -> tuple[str, ...]:
        """The errors alone: the first is the cause, the others what followed from it."""
        return tuple(complaint.text for complaint in self.all if complaint.severity == "error")

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings alone."""
        return tuple(complaint.text for complaint in self.all if complaint.severity == "warning")

    @property
    def reason(self) -> str:
        """Why something failed, for the middle of a sentence: the first error, or last warning."""
        said = self.errors[:1] or self.warnings[-1:]
        return said[0] if said else "TensorRT gave no reason"


class Watch(Protocol):
    """Follows a build; phases nest. See `edge_vit.runtime.trt.phases`."""

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        """Hear that `phase` of `num_steps` begins inside `parent`."""
        ...

    def step(self, phase: str, index: int) -> bool:
        """Hear that step `index` of `phase` is done; return whether to go on."""
        ...

    def finish(self, phase: str) -> None:
        """Hear that `phase` is over."""
        ...


def tidy(text: str) -> str:
    """Return what TensorRT says, on one line, without the place in its source."""
    line = _INSIDE.sub("", _PLACE.sub("", " ".join(text.split()), count=1))
    while (plain := re.sub(r"\(\s*(\([^()]*\))\s*\)", r"\1", line)) != line:
        line = plain
    return line.replace(" ()", "").rstrip(". ")


def make_logger(trt: Any, complaints: Complaints) -> Any:
    """Return a logger of the TensorRT package `trt` that fills `complaints`.

    It has to outlive everything that was made with it.
    """
    severities = trt.ILogger.Severity
    error, warning = int(severities.ERROR), int(severities.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of an untyped package
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            level = int(severity)  # smaller is worse
            if level <= warning:
                complaints.add("error" if level <= error else "warning", message)

    return Logger()


def make_monitor(trt: Any, watch: Watch) -> Any:
    """Return a progress monitor of the TensorRT package `trt` that calls `watch`.

    It has to outlive the build. `cancelled` says whether `watch` stopped the build; `error` is
    what `watch` raised, which stops the build too: TensorRT itself would print and swallow it.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self.error: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(lambda: watch.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            goes_on = self._tell(lambda: watch.step(phase_name, step))
            self.cancelled = self.cancelled or goes_on is False
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._tell(lambda: watch.finish(phase_name))

        def _tell(self, word: Callable[[], bool | None]) -> bool | None:
            try:
                return None if self.cancelled else word()
            except BaseException as error:
                self.error, self.cancelled = error, True
                return None

    return Monitor()
