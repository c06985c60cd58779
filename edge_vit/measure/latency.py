"""How long a run takes: sessions timed in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import SpecError
from edge_vit.measure.environment import read_environment
from edge_vit.measure.recorder import Recorder
from edge_vit.measure.recorder import summarize as summarize
from edge_vit.measure.results import LatencyReport
from edge_vit.progress import SILENT, Advance, Progress
from edge_vit.runtime.session import Session
from edge_vit.spec import TensorSpec

_NUM_BATCHES = 8  # different inputs that the rounds go through; more would only cost memory


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
    """Return how long `session.run` takes, one report per session, in their order.

    Each round runs every session once, on the same batch, and begins with another one than the last
    did: none of them always follows the slowest, and a machine that warms up or is shared slows all
    alike.

    Args:
        sessions: of the same model.
        batch_size: images per run.
        warmup: rounds that are not counted.
        iterations: counted rounds, at least.
        duration_s: seconds that the counted rounds take, at least.
        images: uint8 (count, height, width, 3) RGB, as preprocessed; seeded noise where None.
        progress: is told of each round.

    Raises:
        SpecError: a number is out of range.
        ShapeError: the graph does not take the images, or not `batch_size` of them.
    """
    _check(len(sessions), batch_size, warmup, iterations, duration_s)
    batches = make_batches(sessions[0].inputs[0], batch_size, images)
    rounds = _Rounds(sessions, batches)
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

    Of two sessions of the very same graph in one process, the one that was opened first can be some
    percent slower all the time, by where it came to lie in memory. So the sessions are closed and
    opened anew as often as there are of them, each time another one first, and each is timed in
    every place alike.

    Args:
        openers: each opens a session of the same model; it is closed here.
        batch_size: images per run.
        warmup: rounds that are not counted, each time.
        iterations: counted rounds in all.
        images: uint8 (count, height, width, 3) RGB, as preprocessed; seeded noise where None.
        progress: is told of each round.

    Raises:
        SpecError: a number is out of range.
        ShapeError: the graph does not take the images, or not `batch_size` of them.
    """
    count = len(openers)
    _check(count, batch_size, warmup, iterations, 0.0)
    rounds: _Rounds | None = None
    shares = [len(share) for share in np.array_split(range(iterations), count) if len(share)]
    with progress.step("timing", len(shares) * warmup + iterations) as advance:
        for first, share in enumerate(shares):
            with contextlib.ExitStack() as stack:
                places = [(first + turn) % count for turn in range(count)]
                opened = {place: stack.enter_context(openers[place]()) for place in places}
                sessions = [opened[place] for place in range(count)]
                if rounds is None:
                    batches = make_batches(sessions[0].inputs[0], batch_size, images)
                    rounds = _Rounds(sessions, batches)
                rounds.run(sessions, warmup, share, 0.0, advance)
    assert rounds is not None, "there is at least one session and one round"
    reports = rounds.reports(sessions, batch_size, warmup * len(shares))
    return tuple(dataclasses.replace(report, num_openings=len(shares)) for report in reports)


class _Rounds:
    """Rounds in which every session runs once, on the same batch."""

    def __init__(self, sessions: Sequence[Session], batches: Sequence[UInt8Array]) -> None:
        name = sessions[0].inputs[0].name
        self._feeds = itertools.cycle([{name: batch} for batch in batches])
        self._recorders = [Recorder() for _ in sessions]

    def run(
        self,
        sessions: Sequence[Session],
        warmup: int,
        iterations: int,
        duration_s: float,
        advance: Advance,
    ) -> None:
        """Run rounds that do not count, then rounds that do."""
        begin = 0.0
        for number in itertools.count(-warmup):
            begin = time.perf_counter() if number == 0 else begin
            if number >= iterations and time.perf_counter() - begin >= duration_s:
                break
            is_counted = number >= 0
            self._run_round(sessions, number if is_counted else number + warmup, is_counted)
            advance(1)

    def _run_round(self, sessions: Sequence[Session], first: int, is_counted: bool) -> None:
        feed = next(self._feeds)
        for turn in range(len(sessions)):
            index = (first + turn) % len(sessions)
            start = time.perf_counter_ns()
            sessions[index].run(feed)
            end = time.perf_counter_ns()
            if is_counted:
                self._recorders[index].add(end - start, sessions[index].last_split)

    def reports(
        self, sessions: Sequence[Session], batch_size: int, warmup: int
    ) -> tuple[LatencyReport, ...]:
        """Return one report per session."""
        environment = read_environment()
        return tuple(
            recorder.report(
                session,
                batch_size=batch_size,
                warmup=warmup,
                environment=environment,
                others=[other.precision for other in sessions if other is not session],
            )
            for session, recorder in zip(sessions, self._recorders, strict=True)
        )


def make_batches(
    tensor: TensorSpec, batch_size: int, images: UInt8Array | None
) -> list[UInt8Array]:
    """A few batches of `images`, which are taken round and round; of noise where there are none."""
    if images is None:
        shape = tuple(map(int, tensor.shape[1:]))
        count = _NUM_BATCHES if batch_size == 1 else batch_size + _NUM_BATCHES
        images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    if len(images) == 0:
        raise SpecError("images to time on: got none, expected at least 1")
    return [
        images[np.arange(start, start + batch_size) % len(images)]
        for start in range(min(_NUM_BATCHES, len(images)))
    ]


def _check(
    num_sessions: int, batch_size: int, warmup: int, iterations: int, duration_s: float
) -> None:
    if not num_sessions:
        raise SpecError("sessions to time: got none, expected at least 1")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("iterations", iterations, 1),
        ("duration_s", duration_s, 0),
    ):
        if not value >= least:
            raise SpecError(f"{name}: got {value}, expected at least {least}")
