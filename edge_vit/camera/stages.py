"""The stages between capture and sinks: each one thread, a queue before it, and counters."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_vit.camera import threads
from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.latest_queue import LatestQueue
from edge_vit.camera.summary import LoopMetrics
from edge_vit.camera.values import CameraPrediction, Counts, Frame
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import DeviceLostError, EdgeVitError, ShapeError, SpecError
from edge_vit.runtime.predictor import interpret
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import ClipSpec, ModelSpec

_LOG = logging.getLogger(__name__)
_SINK_FRAMES = 8  # of a file, that may wait before its sinks

Prepare = Callable[[UInt8Array], UInt8Array]
"""Makes the model's input, uint8 (height, width, 3), of a frame's pixels."""

Emit = Callable[[CameraPrediction, Callable[[], None]], None]
"""Takes a prediction, and a function to call once every sink has taken or lost it."""

Outcome = Literal["answered", "dropped", "failed", "gathered"]
"""What became of a frame, as `Counts` has it."""

Step = Callable[[CameraPrediction], CameraPrediction]
"""Post-processing: smoothing, a confidence floor."""


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs.

    Where no prediction comes for `prediction_timeout_s` while a live source is read, or one run
    takes longer, the process is to be started anew; 0 for any time.
    """

    batch_size: int = 1  # frames, or clips, that one run takes at most; 1 for the lowest latency
    deadline_ms: float = 0.0  # that a run waits for more frames once it has one
    top: int = 5  # entries of a prediction
    prediction_timeout_s: float = 60.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    every: int | None = None  # frames from one clip's prediction to the next; None for its stride

    def __post_init__(self) -> None:
        for name in ("batch_size", "top", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{name}: got {getattr(self, name)}, expected at least 1")
        for name in ("deadline_ms", "prediction_timeout_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise SpecError(f"{name}: got {getattr(self, name)}, expected at least 0")


@dataclass(frozen=True, eq=False)
class Work:
    """A frame on its way: the place of its source, and what the stages made of it so far."""

    place: int
    frame: Frame
    model_input: UInt8Array | None = None
    outputs: Mapping[str, NDArray[np.float32]] | None = None

    def stamped(self, **instants_ns: int) -> Frame:
        """Return the frame with more stamps."""
        changes: dict[str, Any] = instants_ns
        stamps = dataclasses.replace(self.frame.stamps, **changes)
        return dataclasses.replace(self.frame, stamps=stamps)


class FrameCounts:
    """What became of every frame, by the place of its source; safe for several threads."""

    def __init__(self, num_sources: int) -> None:
        self._lock = threading.Lock()
        self._counts = [Counter[Outcome]() for _ in range(num_sources)]
        self._reported = [0] * num_sources  # drops that a prediction has reported
        self.last_reason = ""  # why the last frame failed
        self._warnings = threads.RateLimitedWarnings(_LOG)

    def add(self, place: int, outcome: Outcome) -> None:
        """Count a frame of the source at `place`; a gathered one is of a clip of another frame."""
        with self._lock:
            self._counts[place][outcome] += 1

    def fail(self, work: Work, error: BaseException) -> None:
        """Count `work` as failed, and log why."""
        reason = threads.describe(error)
        self.add(work.place, "failed")
        self.last_reason = reason
        self._warnings.warn(reason, f"frame {work.frame.number} of {work.frame.source}: {reason}")

    def take_dropped(self, place: int) -> int:
        """Return how many frames of the source were dropped since the last call."""
        with self._lock:
            dropped = self._counts[place]["dropped"]
            fresh, self._reported[place] = dropped - self._reported[place], dropped
            return fresh

    def counts(self, place: int, captured: int, undecoded: int) -> Counts:
        """Return the counts of one source."""
        with self._lock:
            counted = self._counts[place] + Counter[Outcome](failed=undecoded)
        in_flight = max(0, captured - counted.total())
        return Counts(counted.total() + in_flight, in_flight=in_flight, **counted)


class Stages:
    """Preprocessing, inference and post-processing, one thread each.

    `is_live` is of each source, `steps` are post-processing in order, and `emit` must not wait.
    """

    def __init__(
        self,
        is_live: Sequence[bool],
        session: Session,
        spec: ModelSpec,
        prepare: Prepare,
        steps: Sequence[Step],
        emit: Emit,
        counts: FrameCounts,
        metrics: LoopMetrics,
        clock: threads.Clock,
        options: LoopOptions,
    ) -> None:
        self._session, self._spec = session, spec
        self._prepare_pixels, self._steps, self._emit = prepare, tuple(steps), emit
        self._counts, self._metrics, self._clock = counts, metrics, clock
        self._options, batch_size = options, options.batch_size
        # Of live sources a batch of all together: what waits longer is not the newest.
        depth = -(-batch_size // len(is_live))
        # Of a file enough to fill every stage; what it may not send yet waits in its own thread.
        window = 4 * batch_size + _SINK_FRAMES
        # A file is held back where it enters: behind that no stage waits for a file's sake.
        self._windows = [None if live else threading.Semaphore(window) for live in is_live]
        clip = spec.preprocess.clip
        self._rings = [ClipRing(clip, options.every) if clip else None for _ in is_live]
        self._is_cleared = False
        self.captured: LatestQueue[Work] = LatestQueue(depth, clock, file_depth=window)
        self._ready: LatestQueue[Work] = LatestQueue(depth, clock, file_depth=window)
        # What has run gets its prediction, whatever comes after: nothing is dropped here.
        self._inferred: LatestQueue[Work] = LatestQueue(2 * batch_size, clock)
        self.infer_since_ns = 0  # of the run that is under way; 0 between runs
        self.last_prediction_ns = metrics.start_ns
        self.lost: EdgeVitError | None = None  # why the stages ended before their time
        self._threads: list[threading.Thread] = []

    def start(self, ended: Callable[[], None]) -> None:
        """Begin; `ended` is called after the last frame's prediction, or when a stage failed."""
        stages = (
            ("preprocess", self._prepare, self._ready.close),
            ("infer", self._infer, self._inferred.close),
            ("finish", self._finish, partial(self._end, ended)),
        )
        for name, stage, after in stages:
            work = partial(self._run_stage, name, stage, after)
            self._threads.append(threads.start_thread(name, work, self._fail))

    def deliver(self, place: int, frame: Frame) -> None:
        """Take a frame of the source at `place`; what it replaces is counted as dropped.

        Waits for a file while too many of its frames are on their way.
        """
        work = Work(place, frame)
        if (ring := self._rings[place]) is not None and not ring.takes(frame.number):
            self._counts.add(place, "gathered")
            return
        if (window := self._windows[place]) is not None:
            window.acquire()
        is_late = self._is_cleared
        self._drop(work if is_late else self.captured.put(place, work, is_live=frame.is_live))

    def clear(self) -> None:
        """Drop all frames that wait; those that have run still get their prediction."""
        self._is_cleared = True
        for window in filter(None, self._windows):
            window.release()  # the reader that waits
        for queue in (self.captured, self._ready):
            for work in queue.clear():
                self._drop(work)

    def join(self, until_ns: int) -> bool:
        """Wait until all threads have ended, or until `until_ns`; return whether they have."""
        for thread in self._threads:
            thread.join(max(0, until_ns - threads.SYSTEM_CLOCK.now_ns()) / 1e9)
        return not any(thread.is_alive() for thread in self._threads)

    def _run_stage(self, name: str, stage: Callable[[], None], after: Callable[[], None]) -> None:
        """Run `stage` and then `after`, whatever happens; where it fails all stages end."""
        try:
            stage()
        except BaseException as fault:
            self._fail(threads.as_error(fault, name))
            self.clear()
        finally:
            after()

    def _end(self, ended: Callable[[], None]) -> None:
        for work in self._inferred.clear():  # none, unless the last stage failed
            self._drop(work)
        ended()

    def _fail(self, error: EdgeVitError) -> None:
        self.lost = self.lost or error

    def _leave(self, place: int) -> None:
        """Note that a frame of the source at `place` is on its way no more."""
        if (window := self._windows[place]) is not None:
            window.release()

    def _drop(self, work: Work | None) -> None:
        if work is not None:
            self._counts.add(work.place, "dropped")
            self._leave(work.place)

    def _fail_frame(self, work: Work, error: BaseException) -> None:
        self._counts.fail(work, error)
        self._leave(work.place)

    def _prepare(self) -> None:
        while works := self.captured.take():
            (work,) = works
            start_ns = self._clock.now_ns()
            try:
                model_input = self._prepare_pixels(work.frame.pixels)
                if (ring := self._rings[work.place]) is not None:
                    clip = ring.add(work.frame, model_input)
                    if clip is None:
                        self._counts.add(work.place, "gathered")
                        self._leave(work.place)
                        continue
                    model_input = clip
            except BaseException as error:
                self._fail_frame(work, error)
                continue
            end_ns = self._clock.now_ns()
            frame = work.stamped(preprocess_start_ns=start_ns, preprocess_end_ns=end_ns)
            ready = Work(work.place, frame, model_input)
            self._drop(self._ready.put(work.place, ready, is_live=frame.is_live))

    def _infer(self) -> None:
        wait_ns = round(self._options.deadline_ms * 1e6)
        while works := self._ready.take(self._options.batch_size, wait_ns):
            start_ns = self.infer_since_ns = self._clock.now_ns()
            try:
                inputs = [work.model_input for work in works if work.model_input is not None]
                outputs = run_images(self._session, np.stack(inputs))
            except BaseException as error:
                for work in works:
                    self._fail_frame(work, error)
                # A lost device, and a model of another shape, fail on every other frame too.
                if isinstance(error, DeviceLostError | ShapeError):
                    raise
                continue
            finally:
                self.infer_since_ns = 0
            end_ns = self._clock.now_ns()
            for row, work in enumerate(works):
                frame = work.stamped(infer_start_ns=start_ns, infer_end_ns=end_ns)
                own = {name: output[row : row + 1] for name, output in outputs.items()}
                inferred = Work(work.place, frame, outputs=own)
                self._drop(self._inferred.put(work.place, inferred, is_live=False))

    def _finish(self) -> None:
        while works := self._inferred.take():
            (work,) = works
            try:
                prediction = self._predict(work)
                stamps = prediction.frame.stamps
                self._metrics.add(work.frame.source, stamps)
            except BaseException as error:
                self._fail_frame(work, error)
                continue
            self._counts.add(work.place, "answered")
            self.last_prediction_ns = stamps.predicted_ns
            self._emit(prediction, partial(self._leave, work.place))

    def _predict(self, work: Work) -> CameraPrediction:
        assert work.outputs is not None
        name = f"{work.frame.source}#{work.frame.number}"
        size = work.frame.pixels.shape[:2]
        precision, top = self._session.precision, self._options.top
        raw = interpret(name, work.outputs, self._spec, precision, top, size)
        prediction = CameraPrediction(work.frame, raw, work.outputs)
        for step in self._steps:
            prediction = step(prediction)
        return dataclasses.replace(
            prediction,
            frame=work.stamped(predicted_ns=self._clock.now_ns()),
            num_dropped=self._counts.take_dropped(work.place),
        )


_LEAST_GAP_NS = 2 * 10**9
_LONG_GAP = 10  # times the time between two frames; a source that was lost begins a new clip


class ClipRing:
    """The frames of one source that the next clip is made of, as the model's input.

    Each `clip.stride`-th frame of the source is kept, `clip.frames` at most. A prediction is due
    with the first whole clip, then `every` frames later, or with the next frame that is kept.
    """

    def __init__(self, clip: ClipSpec, every: int | None = None) -> None:
        self._clip, self._every = clip, every or clip.stride
        self._inputs: deque[UInt8Array] = deque(maxlen=clip.frames)
        self._last: Frame | None = None
        self._predicted: int | None = None  # number of the frame of the last clip
        self._apart_ns = 0  # between the last two frames that were kept

    def takes(self, number: int) -> bool:
        """Return whether frame `number` of the source goes into clips."""
        return number % self._clip.stride == 0

    def add(self, frame: Frame, model_input: UInt8Array) -> UInt8Array | None:
        """Return the clip that ends with `frame`, uint8 (frames, H, W, 3), if one is due.

        Where frames between were dropped, the one before them stands for them, so that the
        distances in time stay. After a long silence of a live source a new clip begins.
        """
        missing = self._note(frame)
        if self._inputs:
            self._inputs.extend([self._inputs[-1]] * min(missing, self._clip.frames))
        self._inputs.append(model_input)
        is_due = self._predicted is None or frame.number - self._predicted >= self._every
        if len(self._inputs) < self._clip.frames or not is_due:
            return None
        self._predicted = frame.number
        return np.stack(self._inputs)

    def _note(self, frame: Frame) -> int:
        """Note that `frame` came; return how many before it are missing."""
        last, self._last = self._last, frame
        if last is None:
            return 0
        apart_ns = frame.stamps.captured_ns - last.stamps.captured_ns
        steps = max(1, (frame.number - last.number) // self._clip.stride)
        is_lost = self._apart_ns and apart_ns > steps * _LONG_GAP * self._apart_ns
        self._apart_ns = apart_ns // steps
        if frame.is_live and is_lost and apart_ns > _LEAST_GAP_NS:
            self._inputs.clear()
            self._predicted, self._apart_ns = None, 0
            return 0
        return steps - 1
