"""The camera loop: every stage in its own thread, and the caller's thread as the watchdog."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from edge_vit.camera.capture import SourceCapture
from edge_vit.camera.preprocessing import Preprocessing
from edge_vit.camera.sink import Sink, SinkRunner
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.stages import FrameCounts, LoopOptions, Stages, Step
from edge_vit.camera.summary import CameraSummary, LoopMetrics
from edge_vit.camera.systemd import Notifier
from edge_vit.camera.threads import SYSTEM_CLOCK, Clock, as_error, attempt
from edge_vit.camera.values import STAGES, CameraPrediction
from edge_vit.errors import ArtifactError, DeviceLostError, SourceError, SpecError
from edge_vit.runtime.session import Session
from edge_vit.spec import ModelSpec

_LOG = logging.getLogger(__name__)
_STAGES_END_NS = 500 * 10**6  # what a run that is under way may take when the loop is stopped
_SINKS_END_NS = 250 * 10**6  # what sinks may take after that
_LET_GO_NS = 50 * 10**6  # what a stage needs to end once no sink makes it wait


class CameraLoop:
    """Frames of `makers` in, predictions to `sinks` out, until the sources end or `stop` is called.

    `steps` are post-processing, in order; `prepare` makes the model's input, by default as the
    reference does. The session stays open.
    """

    def __init__(
        self,
        makers: Sequence[SourceMaker],
        session: Session,
        spec: ModelSpec,
        *,
        sinks: Sequence[Sink] = (),
        steps: Sequence[Step] = (),
        prepare: Preprocessing | None = None,
        options: LoopOptions | None = None,
        clock: Clock = SYSTEM_CLOCK,
        notifier: Notifier | None = None,
    ) -> None:
        if not makers:
            raise SpecError("sources: got none, expected at least one")
        makers = _with_own_names(makers)
        self._options = options or LoopOptions()
        self._session, self._spec, self._sinks = session, spec, tuple(sinks)
        self._prepare, self._clock = prepare or Preprocessing(spec.preprocess), clock
        self._notifier = notifier or Notifier(None)
        self._changed = threading.Condition()
        self._num_ended = 0
        self._is_stage_end = self._is_stopping = False
        self._has_predicted = False
        self.is_stuck = False  # a thread hangs; the process can only be left
        self._ended_ns = 0
        self._metrics = LoopMetrics(clock.now_ns())
        is_live = [maker.is_live for maker in makers]
        self._counts = FrameCounts(len(makers))
        self._stages = Stages(
            *(is_live, session, spec, self._prepare, steps, self._emit),
            *(self._counts, self._metrics, clock, self._options),
        )
        self._captures = [
            SourceCapture(
                *(maker, partial(self._stages.deliver, place), self._count_ended),
                clock=clock,
                retry=self._options.retry,
            )
            for place, maker in enumerate(makers)
        ]
        self._runners: list[SinkRunner] = []

    def run(self) -> CameraSummary:
        """Run until every source has ended or `stop` was called; return how it went.

        Raises:
            DeviceLostError: no prediction came for too long, or the GPU is gone.
            SourceError: a file could not be read to its end.
            ArtifactError: all sources are files, and a sink lost predictions of theirs.
            EdgeVitError: a source or a sink can never work, or a thread failed.
        """
        try:
            for sink in self._sinks:
                sink.open(self.summary)
                self._runners.append(SinkRunner(sink, SYSTEM_CLOCK, self._notify))
            self._stages.start(self._note_stage_end)
            for capture in self._captures:
                capture.start()
            self._watch()
        except Exception as fault:
            raise as_error(fault, "the camera loop") from fault
        finally:
            self._end()
        self._refuse_failures()
        return self.summary()

    def stop(self) -> None:
        """Let `run` return soon. From a signal handler, call it in a thread."""
        self._is_stopping = True
        self._notify()

    def summary(self) -> CameraSummary:
        """Return how the loop stands; from any thread."""
        now_ns = self._ended_ns or self._clock.now_ns()
        latencies = self._metrics.percentiles()
        sources = []
        for place, capture in enumerate(self._captures):
            captured, undecoded = capture.num_captured, capture.num_undecoded
            sources.append(capture.status(self._counts.counts(place, captured, undecoded)))
        return CameraSummary(
            model=self._spec.name,
            backend=self._session.backend,
            precision=self._session.precision,
            threads=self._session.threads,
            batch_size=self._options.batch_size,
            seconds=(now_ns - self._metrics.start_ns) / 1e9,
            fps=self._metrics.fps(now_ns),
            recent_fps=self._metrics.recent_fps(now_ns),
            sources=tuple(sources),
            sinks=tuple(runner.status() for runner in self._runners),
            latency_ms=latencies["latency"],
            age_ms=latencies["age"],
            interval_ms=latencies["interval"],
            stage_ms={stage: latencies[stage] for stage in STAGES},
            clocks=self._metrics.clocks,
            degraded=self._session.degraded,
            preprocessing=self._prepare.description,
            remark=self._session.remark,
        )

    def _emit(self, prediction: CameraPrediction, done: Callable[[], None]) -> None:
        if not self._has_predicted:
            self._has_predicted = True
            attempt("the service manager", self._notifier.ready)
        if not self._runners:
            done()
        taken = _Countdown(len(self._runners), done)
        for runner in self._runners:
            runner.offer(prediction, taken)

    def _count_ended(self) -> None:
        with self._changed:
            self._num_ended += 1
            is_last = self._num_ended == len(self._captures)
            self._changed.notify_all()
        if is_last:
            self._stages.captured.close()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _note_stage_end(self) -> None:
        self._is_stage_end = True
        self._notify()
        for runner in self._runners:
            runner.stop()

    def _watch(self) -> None:
        while True:
            due_ns = self._check()
            with self._changed:
                if self._is_stopping or self._stages.lost is not None:
                    return
                if any(capture.is_hopeless for capture in self._captures):
                    return
                if any(runner.error is not None for runner in self._runners):
                    return
                if self._is_stage_end and all(runner.is_done for runner in self._runners):
                    return
                self._clock.wait(self._changed, due_ns)

    def _check(self) -> int | None:
        """Check sources and predictions, notify the service manager; return when to check again."""
        now_ns = self._clock.now_ns()
        due = [self._notifier.alive(now_ns), *(capture.check() for capture in self._captures)]
        timeout_ns = round(self._options.prediction_timeout_s * 1e9)
        if timeout_ns and not self._is_stage_end:
            since = [self._stages.infer_since_ns or now_ns]
            if any(capture.is_watched for capture in self._captures):
                since.append(max(self._stages.last_prediction_ns, self._metrics.start_ns))
            if now_ns - min(since) >= timeout_ns:
                raise DeviceLostError(self._explain_silence())
            due.append(min(since) + timeout_ns)
        known = [instant for instant in due if instant is not None]
        return min(known) if known else None

    def _explain_silence(self) -> str:
        if self._stages.infer_since_ns:
            why = f"a run of {self._spec.name} on {self._session.backend} does not return"
        elif self._counts.last_reason:
            why = f"the last frame failed: {self._counts.last_reason}"
        else:
            sources = self.summary().sources
            why = "; ".join(
                f"{s.name} is {s.state}" + (f" ({s.last_error})" if s.last_error else "")
                for s in sources
            )
        return f"no answer for {self._options.prediction_timeout_s:g} s: {why}"

    def _end(self) -> None:
        """Stop whatever still runs, and give each frame its place in the counts."""
        attempt("the service manager", self._notifier.stopping)
        for capture in self._captures:
            attempt(f"stopping source {capture.maker.name}", capture.stop)
        self._stages.clear()
        until_ns = SYSTEM_CLOCK.now_ns() + _STAGES_END_NS
        is_over = self._stages.join(until_ns)
        for runner in self._runners:
            runner.stop()  # which also lets go of a stage that waits for room in its queue
        until_ns = max(until_ns, SYSTEM_CLOCK.now_ns() + _SINKS_END_NS)
        self.is_stuck = not is_over and not self._stages.join(SYSTEM_CLOCK.now_ns() + _LET_GO_NS)
        for capture in self._captures:
            self.is_stuck |= not capture.join(until_ns)
        for runner in self._runners:
            if not runner.join(until_ns):
                self.is_stuck = True
                _LOG.warning("sink %s did not finish in time", runner.sink.name)
        self._ended_ns = self._clock.now_ns()

    def _refuse_failures(self) -> None:
        if self._stages.lost is not None:
            raise self._stages.lost
        errors = [capture.error for capture in self._captures]
        errors += [runner.error for runner in self._runners]
        for error in errors:
            if error is not None:
                raise error
        clip = self._spec.preprocess.clip
        for source in self.summary().sources:
            counts = source.counts
            if clip and not source.is_live and counts.captured == counts.gathered > 0:
                raise SourceError(
                    f"{source.name}: it has {counts.captured} frames, and the first clip takes "
                    f"{clip.span}. Take a longer video, or: edgevit run BUNDLE {source.name}"
                )
            if not source.is_live and source.counts.failed and not self._is_stopping:
                why = f" ({source.left_out})" if source.undecoded else ""
                raise SourceError(
                    f"{source.name}: {source.counts.failed} of {source.counts.captured} frames "
                    f"have no answer{why}"
                )
        if self._is_stopping or any(capture.maker.is_live for capture in self._captures):
            return
        for sink in self.summary().sinks:  # of files every prediction counts
            if sink.failed:
                count = sink.failed + sink.written
                raise ArtifactError(
                    f"sink {sink.name}: {sink.failed} of {count} answers failed, the last: "
                    f"{sink.last_error}"
                )


class _Countdown:
    """Calls `done` when it has been called `count` times, from any threads."""

    def __init__(self, count: int, done: Callable[[], None]) -> None:
        self._left, self._done, self._lock = count, done, threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._done()


def _with_own_names(makers: Sequence[SourceMaker]) -> list[SourceMaker]:
    """Return `makers` by names that differ: smoothing, pictures and figures are kept by name."""
    counts: Counter[str] = Counter()
    named = []
    for maker in makers:
        counts[maker.name] += 1
        number = f" ({counts[maker.name]})" if counts[maker.name] > 1 else ""
        named.append(dataclasses.replace(maker, name=f"{maker.name}{number}"))
    return named
