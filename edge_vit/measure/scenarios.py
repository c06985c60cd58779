"""How runs follow each other: as fast as they can, as a camera asks, or as MLPerf defines it.

The definitions of ``single-stream``, ``multi-stream`` and ``offline`` are those of MLPerf Inference
(its mlperf.conf), where each takes ten minutes at least and its own load generator. Here they are
shortened, so their numbers are no submission and are labelled so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import SpecError
from edge_vit.measure.environment import read_environment
from edge_vit.measure.latency import make_batches
from edge_vit.measure.recorder import Recorder
from edge_vit.measure.results import LatencyReport
from edge_vit.measure.timing import Scenario
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import Session, run_batch

NO_SUBMISSION = "MLPerf-style, not a submission"


@dataclass(frozen=True)
class ScenarioFacts:
    """What a scenario is.

    Attributes:
        label: for people; ``{interval_ms}`` is filled in.
        batch_size: images per run where nobody says otherwise.
        iterations: timed runs where nobody says otherwise.
    """

    label: str
    batch_size: int = 1
    iterations: int = 200


SCENARIOS: Mapping[Scenario, ScenarioFacts] = {
    "saturated": ScenarioFacts("one run after another, as fast as they go"),
    "paced": ScenarioFacts("one run every {interval_ms:.4g} ms, idle in between, as with a camera"),
    "single-stream": ScenarioFacts(
        f"{NO_SUBMISSION}: one image after another; its figure is the p90 latency"
    ),
    "multi-stream": ScenarioFacts(
        f"{NO_SUBMISSION}: queries of 8 images, one after another; its figure is the p99 latency",
        batch_size=8,
        iterations=1000,  # so that p99 can be said
    ),
    "offline": ScenarioFacts(
        f"{NO_SUBMISSION}: all images are there at once; its figure is images per second",
        batch_size=8,
        iterations=100,
    ),
}


class Clock(Protocol):
    """Time as `time` gives it; tests script it."""

    def perf_counter_ns(self) -> int:
        """Return nanoseconds that rise."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Return that much later."""
        ...


@dataclass(frozen=True)
class Plan:
    """How to time a session.

    Attributes:
        scenario: how runs follow each other.
        batch_size: images per run; what the scenario has where None.
        iterations: timed runs at least; what the scenario has where None, or 1 with a duration.
        duration_s: seconds that the timed runs take at least.
        warmup: runs that do not count.
        fps: runs per second of the scenario ``paced``.

    Raises:
        SpecError: a number is out of range, or a scenario has its own batch size.
    """

    scenario: Scenario = "saturated"
    batch_size: int | None = None
    iterations: int | None = None
    duration_s: float = 0.0
    warmup: int = 10
    fps: float = 30.0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("iterations", self.iterations, 1),
            ("duration_s", self.duration_s, 0),
            ("warmup", self.warmup, 0),
        ):
            if value is not None and not (math.isfinite(value) and value >= least):
                raise SpecError(f"{name}: got {value}, expected at least {least}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise SpecError(f"fps: got {self.fps}, expected more than 0 runs per second")
        fixed = SCENARIOS[self.scenario].batch_size
        is_fixed = self.scenario in ("single-stream", "multi-stream")
        if is_fixed and self.batch_size not in (None, fixed):
            raise SpecError(
                f"batch_size: got {self.batch_size}, expected {fixed}, which {self.scenario} "
                "is defined by. For other batches take the scenario saturated or offline"
            )

    @property
    def num_iterations(self) -> int:
        """Timed runs, at least."""
        if self.iterations is not None:
            return self.iterations
        return 1 if self.duration_s else SCENARIOS[self.scenario].iterations

    @property
    def interval_ms(self) -> float | None:
        """From the start of one run to that of the next, where the scenario says so."""
        return 1000 / self.fps if self.scenario == "paced" else None

    @property
    def label(self) -> str:
        """What the scenario is, for people."""
        return SCENARIOS[self.scenario].label.format(interval_ms=self.interval_ms or 0.0)

    def batch_size_of(self, static_batch: int | None) -> int:
        """Return how many images a run takes, of a graph whose batch is fixed or not (None)."""
        if self.batch_size is not None:
            return self.batch_size
        if static_batch is not None and self.scenario in ("saturated", "paced", "offline"):
            return static_batch
        return SCENARIOS[self.scenario].batch_size

    def batch_of(self, session: Session) -> int:
        """Return how many images a run of `session` takes."""
        static = session.inputs[0].shape[0]
        return self.batch_size_of(static if isinstance(static, int) else None)


def time_scenario(
    session: Session,
    plan: Plan,
    *,
    images: UInt8Array | None = None,
    clock: Clock = time,
    meter: AbstractContextManager[object] | None = None,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Return how long the runs of `session` take when they follow each other as `plan` says.

    Args:
        session: to be timed.
        plan: how.
        images: uint8 (count, height, width, 3) RGB, as preprocessed; seeded noise where None.
        clock: of the machine.
        meter: is entered when warm-up is over, and left when the last run is.
        progress: is told of each run.

    Raises:
        SpecError: there are no images.
        ShapeError: the graph does not take the images, or not a batch of this size.
    """
    batch_size = plan.batch_of(session)
    batches = make_batches(session.inputs[0], batch_size, images)
    recorder = Recorder()
    run = _runner(session, plan.scenario)
    interval = None if plan.interval_ms is None else round(plan.interval_ms * 1e6)
    total = None if plan.duration_s else plan.warmup + plan.num_iterations
    with progress.step(f"timing {plan.scenario}", total) as advance:
        for batch in itertools.islice(itertools.cycle(batches), plan.warmup):
            run(batch)
            advance(1)
        with meter or contextlib.nullcontext():
            begin = due = end = clock.perf_counter_ns()
            for number, batch in enumerate(itertools.cycle(batches)):
                if number >= plan.num_iterations and end - begin >= plan.duration_s * 1e9:
                    break
                if interval is not None:
                    due = _wait_until(due, interval, clock)
                start = clock.perf_counter_ns()
                run(batch)
                end = clock.perf_counter_ns()
                recorder.add(end - start, session.last_split)
                advance(1)
    seconds = (end - begin) / 1e9 if plan.scenario in ("offline", "paced") else None
    report = recorder.report(
        session,
        batch_size=batch_size,
        warmup=plan.warmup,
        environment=read_environment(),
        seconds=seconds,
    )
    return dataclasses.replace(
        report,
        scenario=plan.scenario,
        label=plan.label,
        interval_ms=plan.interval_ms,
        timed_on="noise" if images is None else "images",
    )


def _runner(session: Session, scenario: Scenario) -> Callable[[UInt8Array], object]:
    """What one run is: a query of several images may take a graph of fixed batch several runs."""
    if scenario == "multi-stream":
        return lambda batch: run_batch(session, batch)
    name = session.inputs[0].name
    return lambda batch: session.run({name: batch})


def _wait_until(due: int, interval: int, clock: Clock) -> int:
    """Sleep until `due`, or start at once where that is past; return when the next is due."""
    now = clock.perf_counter_ns()
    if now < due:
        clock.sleep((due - now) / 1e9)
        return due + interval
    missed = (now - due) // interval  # a camera does not wait: frames in between are lost
    return due + (missed + 1) * interval
