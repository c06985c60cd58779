"""A long run of the production loop over a script of all that goes wrong in the field."""

from __future__ import annotations

import gc
import itertools
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from camera.scripted import ScriptedClock, ScriptedSource, scripted_maker, tiny_spec
from camera.scripted_loops import unhurried

from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.stages import LoopOptions
from edge_vit.camera.summary import CameraSummary
from edge_vit.camera.values import CameraPrediction
from edge_vit.errors import BackendError, ImageError, SourceError
from edge_vit.runtime.fake import FakeSession
from edge_vit.runtime.session import Array
from edge_vit.spec import TensorSpec

SPEC = tiny_spec()
SPEED = 200.0  # the script's time runs so many times as fast as ours
SILENCE_S = 3 * SPEED  # three of our seconds: a thread that only waits for a core is not silent


@dataclass(frozen=True)
class SoakResult:
    """What a soak showed.

    Attributes:
        summary: of the loop.
        given: frames that each script handed over, by source.
        disorder: predictions whose number did not rise within their source.
        memory_mib: resident size, sampled while it ran.
        seconds: of our time.
    """

    summary: CameraSummary
    given: dict[str, int]
    disorder: int
    memory_mib: tuple[float, ...]
    seconds: float


class Session(FakeSession):
    """Answers quickly; now and then a run fails, or its output is not finite."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self._runs = itertools.count(1)

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        run = next(self._runs)
        if run % 97 == 0:
            raise BackendError("the device is busy")
        outputs = super()._run(feeds)
        if run % 149 == 0:
            outputs["logits"][:] = np.nan
        return outputs

    def _row(self, spec: TensorSpec, digest: int) -> Array:
        return np.full(10, digest % 7919, np.float32)


class Books:
    """A sink that checks the order and remembers no more than one number a source."""

    name = "books"
    queue_size = 16
    needs_pixels = False

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.disorder = 0

    def open(self, summarize: Callable[[], CameraSummary]) -> None:
        """Nothing to do."""

    def write(self, prediction: CameraPrediction) -> None:
        frame = prediction.frame
        self.disorder += frame.number <= self.last.get(frame.source, -1)
        self.last[frame.source] = frame.number

    def close(self) -> None:
        """Nothing to do."""


class Faulty(Books):
    """A sink that raises again and again, and sometimes stands still for a while."""

    name = "faulty"
    queue_size = 4
    needs_pixels = False

    def write(self, prediction: CameraPrediction) -> None:
        if prediction.frame.is_live and prediction.frame.number % 5003 == 0:
            time.sleep(0.05)
        if prediction.frame.number % 3 == 0:
            raise OSError(f"broker {prediction.frame.number % 2} went away")


class Counted:
    """A script that counts the frames that it hands over."""

    def __init__(self, events: Iterator[object]) -> None:
        self.given = 0
        self._events = events

    def __iter__(self) -> Iterator[object]:
        for event in self._events:
            is_frame = isinstance(event, int | ImageError)
            self.given += is_frame
            yield event


def problems(result: SoakResult) -> list[str]:
    """Return whatever does not add up; nothing where all is well."""
    found = []
    for source in result.summary.sources:
        counts = source.counts
        if counts.captured != counts.answered + counts.dropped + counts.failed:
            found.append(f"{source.name}: {counts} do not add up")
        if counts.captured != result.given[source.name]:
            found.append(f"{source.name}: gave {result.given[source.name]}, counted {counts}")
        if not source.is_live and counts.dropped:
            found.append(f"{source.name}: a file lost {counts.dropped} frames")
    answered = result.summary.counts.answered
    for sink in result.summary.sinks:
        if sink.written + sink.failed + sink.dropped != answered:
            found.append(f"{sink.name}: {sink} of {answered} answers")
    if result.disorder:
        found.append(f"{result.disorder} answers out of order")
    return found


def live_events(count: int, seed: int) -> Iterator[object]:
    """Yield `count` frames, in bursts and at a pace, between stalls, hangs and disconnects."""
    random = np.random.default_rng(seed)

    def stall(source: ScriptedSource) -> object:
        return source.hang()

    number = 0
    while number < count:
        kind = random.integers(0, 100)
        if kind < 3:
            yield SourceError("script: unplugged")
        elif kind == 3 and random.random() < 0.1:
            yield stall
        elif kind == 4:
            yield ImageError("a packet was lost")
            number += 1
        burst = int(random.integers(1, 60))
        for _ in range(min(burst, count - number)):
            yield number % 251
            number += 1
            if kind > 50:
                time.sleep(0)  # let the others have the interpreter, as a real camera does
        time.sleep(1e-5)
    while True:  # until the loop is stopped
        yield stall


class Reordered(ScriptedSource):
    """A source whose driver stamps its frames in disorder, and sometimes in the future."""

    def read(self):
        capture = super().read()
        if capture is None:
            return None
        shift_ns = (capture.captured_ns // 1000 % 7 - 3) * 10**8
        return type(capture)(capture.pixels, capture.captured_ns + shift_ns, capture.clock)


def soak(num_frames: int, *, samples: int = 20) -> SoakResult:
    """Run until all scripts are at their end; a fifth of the frames come from a file.

    Args:
        num_frames: of all sources together.
        samples: how often memory is looked at.
    """
    clock, books = ScriptedClock(), Books()
    shares = {"steady": num_frames * 2 // 5, "reordered": num_frames * 2 // 5}
    shares["file"] = num_frames - sum(shares.values())
    scripts = {
        "steady": Counted(live_events(shares["steady"], 1)),
        "reordered": Counted(live_events(shares["reordered"], 2)),
        "file": Counted(iter(range(shares["file"]))),
    }
    reordered = iter(scripts["reordered"])
    makers = [
        scripted_maker(scripts["steady"], clock, name="steady"),
        SourceMaker("reordered", True, lambda: Reordered(reordered, clock, 1 / 30)),
        scripted_maker(scripts["file"], clock, name="file", is_live=False),
    ]
    loop = CameraLoop(
        makers,
        Session(),
        SPEC,
        sinks=[books, Faulty()],
        options=LoopOptions(
            prediction_timeout_s=0,
            retry=RetryPolicy(
                stale_after_s=SILENCE_S,
                open_timeout_s=SILENCE_S,
                first_retry_s=0.1,
                max_retry_s=1,
            ),
        ),
        clock=clock,
    )
    memory: list[float] = []
    done = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        """Stop the loop when every script is at its end; look at the memory on the way."""
        step, due, ends_at = num_frames / samples, 0.0, 0.0
        while not done.wait(0.02):
            given = sum(script.given for script in scripts.values())
            if given >= due:
                gc.collect()
                memory.append(resident_mib())
                due += step
            counts = {source.name: source for source in loop.summary().sources}
            is_over = all(scripts[name].given >= shares[name] for name in ("steady", "reordered"))
            if is_over and counts["file"].state == "ended" and counts["file"].counts.in_flight == 0:
                is_counted = all(counts[n].counts.captured >= s.given for n, s in scripts.items())
                ends_at = ends_at or time.monotonic() + 10  # a frame that is lost is never counted
                if not is_counted and time.monotonic() < ends_at:
                    continue
                loop.stop()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with clock.passing(SPEED), unhurried():
            summary = loop.run()
    except SourceError:  # some frames of the file failed, as they were meant to
        summary = loop.summary()
    finally:
        done.set()
    return SoakResult(
        summary,
        {name: script.given for name, script in scripts.items()},
        books.disorder,
        tuple(memory),
        time.monotonic() - start,
    )


def resident_mib() -> float:
    """Return how much memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
