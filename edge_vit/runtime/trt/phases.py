"""How far a build is: TensorRT's nested phases as one number that only grows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class _Phase:
    num_steps: int
    parent: str | None
    done: int = 0
    inner: set[str] = field(default_factory=set)


class Phases:
    """Follows the phases of a build, from any thread.

    Args:
        report: takes the share that is done, 0 to 1, and the innermost phase, whenever that
            share grew; called with the lock held, so that it hears no two at once.
        goes_on: asked after each step; False cancels the build.
    """

    def __init__(self, report: Callable[[float, str], None], goes_on: Callable[[], bool]) -> None:
        self._report, self._goes_on = report, goes_on
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, phase: str, parent: str | None, num_steps: int) -> None:
        """Hear that `phase` of `num_steps` begins inside `parent`."""
        with self._lock:
            self._phases[phase] = _Phase(max(1, num_steps), parent)
            if parent in self._phases:
                self._phases[parent].inner.add(phase)

    def step(self, phase: str, index: int) -> bool:
        """Hear that step `index` of `phase` is done; return whether to go on."""
        with self._lock:
            known = self._phases.get(phase)
            if known is not None:
                known.done = max(known.done, index + 1)
                for name in known.inner:  # they were part of the step that is done
                    self._phases.pop(name, None)
                known.inner.clear()
                self._tell(phase)
        return self._goes_on()

    def finish(self, phase: str) -> None:
        """Hear that `phase` is over; its parent counts it with the step that it belongs to."""
        with self._lock:
            known = self._phases.get(phase)
            if known is not None:
                known.done = known.num_steps
                self._tell(phase)

    def _tell(self, phase: str) -> None:
        roots = [name for name, p in self._phases.items() if p.parent not in self._phases]
        share = max(map(self._share_of, roots), default=0.0)
        if share > self._share:
            self._share = share
            self._report(share, phase)

    def _share_of(self, name: str) -> float:
        """Steps that are done, and of the current one the mean of the phases inside it."""
        phase = self._phases[name]
        inner = [self._share_of(other) for other in phase.inner if other in self._phases]
        current = sum(inner) / len(inner) if inner else 0.0
        return min(1.0, (phase.done + current) / phase.num_steps)
