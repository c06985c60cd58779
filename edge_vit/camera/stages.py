"""The stages between capture and sinks: each one thread, a queue before it, and counters."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.camera.clock import SYSTEM_CLOCK, Clock
from edge_vit.camera.latest_queue import LatestQueue, Window
from edge_vit.camera.loop_metrics import LoopMetrics
from edge_vit.camera.rate_limit import RateLimitedWarnings
from edge_vit.camera.threads import as_error, start_thread
from edge_vit.camera.values import CameraPrediction, Counts, Frame, describe
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import DeviceLostError, EdgeVitError, ShapeError
from edge_vit.runtime.predictor import interpret
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import ModelSpec

_LOG = logging.getLogger(__name__)
_SINK_FRAMES = 8  # of a file, that may wait before its sinks

Prepare = Callable[[UInt8Array], UInt8Array]
"""Makes the model's input, uint8 (height, width, 3), of a frame's pixels."""

Emit = Callable[[CameraPrediction, Callable[[], None]], None]
"""Takes an answer, and what to call once no sink has it before itself any more."""

Step = Callable[[CameraPrediction], CameraPrediction]
"""Post-processing: smoothing, a confidence floor."""


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
        return dataclasses.replace(
            self.frame, stamps=dataclasses.replace(self.frame.stamps, **changes)
        )


class FrameCounts:
    """What became of every frame, by the place of its source; safe for several threads."""

    def __init__(self, num_sources: int) -> None:
        self._lock = threading.Lock()
        self._answered = [0] * num_sources
        self._dropped = [0] * num_sources
        self._failed = [0] * num_sources
        self._reported = [0] * num_sources  # drops that an answer has reported
        self._last_reason = ""
        self._warnings = RateLimitedWarnings(_LOG)

    def drop(self, work: Work) -> None:
        """Count `work` as dropped."""
        with self._lock:
            self._dropped[work.place] += 1

    def fail(self, work: Work, error: BaseException) -> None:
        """Count `work` as failed, and log why."""
        reason = describe(error)
        with self._lock:
            self._failed[work.place] += 1
            self._last_reason = reason
        self._warnings.warn(reason, f"frame {work.frame.number} of {work.frame.source}: {reason}")

    def finish(self, work: Work) -> None:
        """Count `work` as answered."""
        with self._lock:
            self._answered[work.place] += 1

    def take_dropped(self, place: int) -> int:
        """Return how many frames of the source were dropped since the last call."""
        with self._lock:
            fresh = self._dropped[place] - self._reported[place]
            self._reported[place] = self._dropped[place]
            return fresh

    @property
    def last_reason(self) -> str:
        """Why the last frame failed."""
        return self._last_reason

    def counts(self, place: int, captured: int, undecoded: int) -> Counts:
        """Return the counts of one source."""
        with self._lock:
            answered, dropped = self._answered[place], self._dropped[place]
            failed = self._failed[place] + undecoded
        in_flight = max(0, captured - answered - dropped - failed)
        return Counts(answered + dropped + failed + in_flight, answered, dropped, failed, in_flight)


class Stages:
    """Preprocessing, inference and post-processing, one thread each.

    Args:
        is_live: of each source.
        session: which runs the model.
        spec: of the model.
        prepare: makes the model's input.
        steps: of post-processing, in order.
        emit: takes each prediction; must not wait.
        counts: where every frame ends.
        metrics: of latencies.
        clock: of stamps.
        batch_size: frames that one run takes at most.
        deadline_ms: how long a run waits for more frames once it has one.
        top: entries of a prediction.
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
        clock: Clock,
        *,
        batch_size: int,
        deadline_ms: float,
        top: int,
    ) -> None:
        self._session, self._spec = session, spec
        self._prepare_pixels, self._steps, self._emit = prepare, tuple(steps), emit
        self._counts, self._metrics, self._clock = counts, metrics, clock
        self._batch_size, self._wait_ns, self._top = batch_size, round(deadline_ms * 1e6), top
        # Of live sources a batch of all together: what waits longer is not the newest.
        depth = -(-batch_size // len(is_live))
        # Of a file enough to fill every stage; what it may not send yet waits in its own thread.
        window = 4 * batch_size + _SINK_FRAMES
        self._windows = [None if live else Window(window) for live in is_live]
        self.captured: LatestQueue[Work] = LatestQueue(is_live, depth, clock, file_depth=window)
        self._ready: LatestQueue[Work] = LatestQueue(is_live, depth, clock, file_depth=window)
        # What has run is answered, whatever comes after: nothing is dropped here.
        self._inferred: LatestQueue[Work] = LatestQueue(
            [False] * len(is_live), 2 * batch_size, clock
        )
        self.infer_since_ns = 0  # of the run that is under way; 0 between runs
        self.last_prediction_ns = metrics.start_ns
        self.lost: EdgeVitError | None = None  # why the stages ended before their time
        self._threads: list[threading.Thread] = []

    def start(self, ended: Callable[[], None]) -> None:
        """Begin; `ended` is called when the last frame has been answered, or a stage has failed."""
        stages = (
            ("preprocess", self._prepare, self._ready.close),
            ("infer", self._infer, self._inferred.close),
            ("finish", self._finish, partial(self._end, ended)),
        )
        for name, stage, after in stages:
            work = partial(self._run_stage, name, stage, after)
            self._threads.append(start_thread(name, work, self._fail))

    def deliver(self, place: int, frame: Frame) -> None:
        """Take a frame of the source at `place`; what it replaces is counted as dropped.

        Waits for a file while too many of its frames are on their way.
        """
        work, window = Work(place, frame), self._windows[place]
        if window is not None and not window.enter():
            self._counts.drop(work)
            return
        self._drop(self.captured.put(place, work))

    def clear(self) -> None:
        """Drop all frames that wait; those that have run are still answered."""
        for window in self._windows:
            if window is not None:
                window.close()
        for queue in (self.captured, self._ready):
            for work in queue.clear():
                self._drop(work)

    def join(self, until_ns: int) -> bool:
        """Wait until all threads have ended, or until `until_ns`; say whether they have."""
        for thread in self._threads:
            thread.join(max(0, until_ns - SYSTEM_CLOCK.now_ns()) / 1e9)
        return not any(thread.is_alive() for thread in self._threads)

    def _run_stage(self, name: str, stage: Callable[[], None], after: Callable[[], None]) -> None:
        """Run `stage` and then `after`, whatever happens; where it fails all stages end."""
        try:
            stage()
        except BaseException as fault:
            self._fail(as_error(fault, name))
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
        window = self._windows[place]
        if window is not None:
            window.leave()

    def _drop(self, work: Work | None) -> None:
        if work is not None:
            self._counts.drop(work)
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
                frame = work.stamped(
                    preprocess_start_ns=start_ns, preprocess_end_ns=self._clock.now_ns()
                )
            except BaseException as error:
                self._fail_frame(work, error)
                continue
            self._drop(self._ready.put(work.place, Work(work.place, frame, model_input)))

    def _infer(self) -> None:
        while works := self._ready.take(self._batch_size, self._wait_ns):
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
                self._drop(self._inferred.put(work.place, Work(work.place, frame, outputs=own)))

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
            self._counts.finish(work)
            self.last_prediction_ns = stamps.predicted_ns
            self._emit(prediction, partial(self._leave, work.place))

    def _predict(self, work: Work) -> CameraPrediction:
        assert work.outputs is not None
        name = f"{work.frame.source}#{work.frame.number}"
        height, width = work.frame.pixels.shape[:2]
        precision, top = self._session.precision, self._top
        raw = interpret(name, work.outputs, self._spec, precision, top, (height, width))
        prediction = CameraPrediction(work.frame, raw, work.outputs)
        for step in self._steps:
            prediction = step(prediction)
        return dataclasses.replace(
            prediction,
            frame=work.stamped(predicted_ns=self._clock.now_ns()),
            num_dropped=self._counts.take_dropped(work.place),
        )
