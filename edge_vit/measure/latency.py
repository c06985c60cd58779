"""How long a run takes: sessions timed in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.measure.environment import read_environment
from edge_vit.measure.recorder import Recorder
from edge_vit.measure.recorder import summarize as summarize
from edge_vit.measure.results import LatencyReport
from edge_vit.preprocess import UInt8Array
from edge_vit.progress import SILENT, Progress
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
    _check(sessions, batch_size, warmup, iterations, duration_s)
    name = sessions[0].inputs[0].name
    batches = make_batches(sessions[0].inputs[0], batch_size, images)
    feeds = itertools.cycle([{name: batch} for batch in batches])
    recorders = [Recorder(session) for session in sessions]

    def run_round(first: int) -> None:
        feed = next(feeds)
        for turn in range(len(sessions)):
            index = (first + turn) % len(sessions)
            start = time.perf_counter_ns()
            sessions[index].run(feed)
            recorders[index].add(time.perf_counter_ns() - start)

    total = None if duration_s else warmup + iterations
    with progress.step("timing", total) as advance:
        for number in range(warmup):
            run_round(number)
            advance(1)
        recorders[:] = map(Recorder, sessions)  # warm-up does not count
        begin = time.perf_counter()
        for number in itertools.count():
            if number >= iterations and time.perf_counter() - begin >= duration_s:
                break
            run_round(number)
            advance(1)
    environment = read_environment()
    return tuple(
        recorder.report(
            batch_size=batch_size,
            warmup=warmup,
            environment=environment,
            others=[other.precision for other in sessions if other is not session],
        )
        for session, recorder in zip(sessions, recorders, strict=True)
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
    sessions: Sequence[Session], batch_size: int, warmup: int, iterations: int, duration_s: float
) -> None:
    if not sessions:
        raise SpecError("sessions to time: got none, expected at least 1")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("warmup", warmup, 0),
        ("iterations", iterations, 1),
        ("duration_s", duration_s, 0),
    ):
        if not value >= least:
            raise SpecError(f"{name}: got {value}, expected at least {least}")
