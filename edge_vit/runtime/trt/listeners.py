"""Callbacks of TensorRT, from its own threads: the log's last messages, and progress of a build."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

_LOG = logging.getLogger(__name__)
_KEPT = 32

# What stands in front of the words: where in TensorRT's own source, and a number.
_PLACE = re.compile(r"^(?:\[[^\]]*\]\s*)?(?:[\w:]+: )?(?:Error Code \d+: )?")
_INSIDE = re.compile(r"\.?\s*\bIn [\w:~<>]+ at \S+?:\d+")


class Complaints:
    """The last warnings and errors of TensorRT, the oldest first; any thread may add to them."""

    def __init__(self) -> None:
        self._kept: deque[tuple[str, str]] = deque(maxlen=_KEPT)  # whose calls are atomic

    def add(self, severity: Literal["error", "warning"], text: str) -> None:
        """Keep `text`, and log it at debug level."""
        self._kept.append((severity, tidy(text)))
        _LOG.debug("TensorRT %s: %s", severity, text)

    def clear(self) -> None:
        """Forget all, before the next step."""
        self._kept.clear()

    @property
    def all(self) -> tuple[str, ...]:
        """The messages."""
        return tuple(text for _, text in tuple(self._kept))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings alone."""
        return tuple(text for severity, text in tuple(self._kept) if severity == "warning")

    @property
    def reason(self) -> str:
        """Why something failed, for the middle of a sentence: the first error, or last warning."""
        errors = [text for severity, text in tuple(self._kept) if severity == "error"]
        return next(iter((*errors[:1], *self.warnings[-1:])), "TensorRT gave no reason")


def tidy(text: str) -> str:
    """Return a message of TensorRT on one line, without the place in its source."""
    line = _INSIDE.sub("", _PLACE.sub("", " ".join(text.split()), count=1))
    while (plain := re.sub(r"\(\s*(\([^()]*\))\s*\)", r"\1", line)) != line:
        line = plain
    return line.replace(" ()", "").rstrip(". ")


def make_logger(trt: Any, complaints: Complaints) -> Any:
    """Return a logger of `trt` that fills `complaints`, and has to outlive all made with it."""
    severities = trt.ILogger.Severity
    error, warning = int(severities.ERROR), int(severities.WARNING)

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of an untyped package
        def log(self, severity: Any, message: str) -> None:
            level = int(severity)  # smaller is worse
            if level <= warning:
                complaints.add("error" if level <= error else "warning", message)

    return Logger()


@dataclass
class _Phase:
    """A phase, which takes `width` of the whole build from the share `start` on."""

    start: float
    width: float
    num_steps: int
    done: int = 0

    @property
    def share(self) -> float:
        return self.start + self.width * min(self.done, self.num_steps) / self.num_steps


class Phases:
    """Share of a build that is done, by TensorRT's nested phases; for any thread.

    `report` takes the share, 0 to 1, whenever it grew, and is never called by two threads at once.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        """Begin `phase` of `num_steps` inside the current step of `parent`."""
        with self._lock:
            outer = self._phases.get(parent or "", _Phase(0.0, 1.0, 1))
            width = outer.width / outer.num_steps
            self._phases[phase] = _Phase(outer.share, width, max(1, num_steps))

    def step(self, phase: str, index: int) -> None:
        """Count step `index` of `phase` as done."""
        with self._lock:
            if (known := self._phases.get(phase)) is None:
                return
            known.done = max(known.done, index + 1)
            if known.share > self._share:
                self._share = known.share
                self._report(known.share)

    def finish(self, phase: str) -> None:
        """End `phase`."""
        if (known := self._phases.get(phase)) is not None:
            self.step(phase, known.num_steps - 1)


def make_monitor(trt: Any, phases: Phases) -> Any:
    """Return a progress monitor of the package `trt` for `phases`; it has to outlive the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
