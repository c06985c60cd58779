"""How long a run takes: of one session, or of several in turns, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import UInt8Array, preprocess
from edge_vit.errors import SpecError
from edge_vit.measure.environment import read_environment
from edge_vit.measure.recorder import Recorder
from edge_vit.measure.results import LatencyReport
from edge_vit.progress import SILENT, Advance, Progress
from edge_vit.runtime.session import Session
from edge_vit.spec import ModelSpec, TensorSpec
from edge_vit.spec.samples import feeds_of, noise_for
from edge_vit.values import checked, settle

SCENARIOS = {
    "saturated": "one run after another, as fast as they go",
    "paced": "one run every {interval_ms:.4g} ms, idle in between, as with a camera",
}
"""How runs follow each other, and the label that a report gives it."""

NUM_TIMED_IMAGES = 8  # different inputs that the rounds go through; more would only cost memory


@dataclass(frozen=True)
class Plan:
    """How to time one session."""

    scenario: str = "saturated"  # one of `SCENARIOS`
    batch_size: int | None = None  # None for that of the graph, or 1
    iterations: int | None = None  # timed runs at least; None for 200, or 1 with a duration
    duration_s: float = 0.0  # that they take at least
    warmup: int = 10  # runs before them
    fps: float = 30.0  # runs per second where paced

    def __post_init__(self) -> None:
        settle(self)
        if self.scenario not in SCENARIOS:
            raise SpecError(f"scenario: got {self.scenario}, expected {' or '.join(SCENARIOS)}")
        batch_size = 1 if self.batch_size is None else self.batch_size
        _check(batch_size, self.warmup, self.num_iterations, self.duration_s)
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise SpecError(f"fps: got {self.fps:g}, expected more than 0 runs per second")

    @property
    def num_iterations(self) -> int:
        """Timed runs, at least."""
        if self.iterations is not None:
            return self.iterations
        return 1 if self.duration_s else 200

    @property
    def interval_ms(self) -> float | None:
        """From the start of one run to that of the next, where paced."""
        return 1000 / self.fps if self.scenario == "paced" else None

    @property
    def label(self) -> str:
        """What the scenario is, in words."""
        return SCENARIOS[self.scenario].format(interval_ms=self.interval_ms or 0.0)


def time_session(
    session: Session,
    plan: Plan,
    *,
    images: UInt8Array | None = None,
    meter: AbstractContextManager[object] | None = None,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Return how long the runs of `session` take when they follow each other as `plan` says.

    `images` are uint8 (count, height, width, 3) RGB, as preprocessed; seeded noise where None. The
    `meter` is entered after the warm-up and left after the last run.
    """
    static = session.inputs[0].shape[0]
    batch_size = plan.batch_size or (static if isinstance(static, int) else 1)
    rounds = _Rounds([session], batch_size, images)
    total = None if plan.duration_s else plan.warmup + plan.num_iterations
    with progress.step(f"timing {plan.scenario}", total) as advance:
        seconds = rounds.run(
            *([session], plan.warmup, plan.num_iterations, plan.duration_s, advance),
            interval_ms=plan.interval_ms,
            meter=meter,
        )
    is_paced = plan.interval_ms is not None
    (report,) = rounds.reports([session], batch_size, plan.warmup, seconds if is_paced else None)
    return dataclasses.replace(
        report,
        scenario=plan.scenario,
        label=plan.label,
        interval_ms=plan.interval_ms,
        timed_on="noise" if images is None else "images",
    )


def timed_images(images: ImageSource, spec: ModelSpec) -> UInt8Array:
    """Return the first few images as the model sees them, (count, height, width, 3)."""
    first = itertools.islice(images, NUM_TIMED_IMAGES)
    return np.stack([preprocess(item.pixels, spec.preprocess) for item in first])


@checked
def measure_latency(
    session: Session,
    *,
    batch_size: int = 1,
    warmup: int = 10,
    iterations: int = 100,
    duration_s: float = 0.0,
    images: UInt8Array | None = None,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Return how long `session.run` takes; the arguments are those of `measure_interleaved`."""
    (report,) = measure_interleaved(
        [session],
        batch_size=batch_size,
        warmup=warmup,
        iterations=iterations,
        duration_s=duration_s,
        images=images,
        progress=progress,
    )
    return report


def measure_interleaved(
    sessions: Sequence[Session],
    *,
    batch_size: int = 1,
    warmup: int = 10,
    iterations: int = 100,
    duration_s: float = 0.0,
    images: UInt8Array | None = None,
    progress: Progress = SILENT,
) -> tuple[LatencyReport, ...]:
    """Return how long `session.run` takes, one report per session of the same model.

    Each round runs every session once, on the same batch, and begins with another one than the last
    did, so that a machine that warms up or is shared slows all alike. `iterations` and `duration_s`
    are the least that counts; `images` are uint8 (count, height, width, 3) RGB, noise where None.

    Raises:
        SpecError: a number is out of range.
        ShapeError: the graph does not take the images, or not `batch_size` of them.
    """
    if not sessions:
        raise SpecError("sessions to time: got none, expected at least 1")
    _check(batch_size, warmup, iterations, duration_s)
    rounds = _Rounds(sessions, batch_size, images)
    with progress.step("timing", None if duration_s else warmup + iterations) as advance:
        rounds.run(sessions, warmup, iterations, duration_s, advance)
    return rounds.reports(sessions, batch_size, warmup)


def measure_reopened(
    openers: Sequence[Callable[[], Session]],
    *,
    batch_size: int = 1,
    warmup: int = 10,
    iterations: int = 100,
    images: UInt8Array | None = None,
    progress: Progress = SILENT,
) -> tuple[LatencyReport, ...]:
    """Return how long runs take, as `measure_interleaved`, of sessions that are opened by turns.

    Of two sessions of one graph in one process, the one that was opened first can be some percent
    slower all the time, by where it came to lie in memory. So all are opened anew as often as there
    are of them, each time another one first. `warmup` counts each time, `iterations` in all.
    """
    count = len(openers)
    _check(batch_size, warmup, iterations, 0.0)
    rounds: _Rounds | None = None
    shares = [len(share) for share in np.array_split(range(iterations), count) if len(share)]
    with progress.step("timing", len(shares) * warmup + iterations) as advance:
        for first, share in enumerate(shares):
            with contextlib.ExitStack() as stack:
                places = [(first + turn) % count for turn in range(count)]
                opened = {place: stack.enter_context(openers[place]()) for place in places}
                sessions = [opened[place] for place in range(count)]
                rounds = rounds or _Rounds(sessions, batch_size, images)
                rounds.run(sessions, warmup, share, 0.0, advance)
    assert rounds is not None, "there is at least one session and one round"
    reports = rounds.reports(sessions, batch_size, warmup * len(shares))
    return tuple(dataclasses.replace(report, num_openings=len(shares)) for report in reports)


class _Rounds:
    """Rounds in which every session runs once, on the same batch."""

    def __init__(
        self, sessions: Sequence[Session], batch_size: int, images: UInt8Array | None
    ) -> None:
        inputs = sessions[0].inputs
        batches = _make_batches(inputs, batch_size, images)
        self._feeds = itertools.cycle([feeds_of(inputs, batch) for batch in batches])
        self._recorders = [Recorder() for _ in sessions]

    def run(
        self,
        sessions: Sequence[Session],
        warmup: int,
        iterations: int,
        duration_s: float,
        advance: Advance,
        interval_ms: float | None = None,
        meter: AbstractContextManager[object] | None = None,
    ) -> float:
        """Run rounds that do not count, then rounds that do; return the seconds of the latter."""
        for number in range(warmup):
            self._run_round(sessions, number, is_counted=False)
            advance(1)
        interval = None if interval_ms is None else round(interval_ms * 1e6)
        with meter or contextlib.nullcontext():
            begin = due = end = time.perf_counter_ns()
            for number in itertools.count():
                if number >= iterations and end - begin >= duration_s * 1e9:
                    break
                if interval is not None:
                    due = _wait_until(due, interval)
                end = self._run_round(sessions, number, is_counted=True)
                advance(1)
        return (end - begin) / 1e9

    def _run_round(self, sessions: Sequence[Session], first: int, *, is_counted: bool) -> int:
        """Run each session once; return the time when the last one was done."""
        feed, end = next(self._feeds), 0
        for turn in range(len(sessions)):
            index = (first + turn) % len(sessions)
            start = time.perf_counter_ns()
            sessions[index].run(feed)
            end = time.perf_counter_ns()
            if is_counted:
                self._recorders[index].add(end - start, sessions[index].last_split)
        return end

    def reports(
        self,
        sessions: Sequence[Session],
        batch_size: int,
        warmup: int,
        seconds: float | None = None,
    ) -> tuple[LatencyReport, ...]:
        """Return one report per session; throughput is that of `seconds`, where given."""
        environment = read_environment()
        return tuple(
            recorder.report(
                session,
                batch_size=batch_size,
                warmup=warmup,
                environment=environment,
                others=[other.precision for other in sessions if other is not session],
                seconds=seconds,
            )
            for session, recorder in zip(sessions, self._recorders, strict=True)
        )


def _make_batches(
    inputs: Sequence[TensorSpec], batch_size: int, images: UInt8Array | None
) -> list[UInt8Array]:
    """A few batches of `images`, of noise where there are none; they are taken round and round."""
    if images is None:
        count = NUM_TIMED_IMAGES if batch_size == 1 else batch_size + NUM_TIMED_IMAGES
        images = noise_for(inputs, count)
    if len(images) == 0:
        raise SpecError("images to time on: got none, expected at least 1")
    return [
        images[np.arange(start, start + batch_size) % len(images)]
        for start in range(min(NUM_TIMED_IMAGES, len(images)))
    ]


def _wait_until(due: int, interval: int) -> int:
    """Sleep until `due`, or start at once where that is past; return when the next is due."""
    now = time.perf_counter_ns()
    if now < due:
        time.sleep((due - now) / 1e9)
        return due + interval
    missed = (now - due) // interval  # a camera does not wait: frames in between are lost
    return due + (missed + 1) * interval


def _check(batch_size: int, warmup: int, iterations: int, duration_s: float) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("iterations", iterations, 1),
        ("duration_s", duration_s, 0),
    ):
        if not (math.isfinite(value) and value >= least):
            raise SpecError(f"{name}: got {value}, expected at least {least}")
