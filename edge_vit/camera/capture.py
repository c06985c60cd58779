"""One source kept alive: read by a thread of its own, opened anew when it is lost or silent."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edge_vit.camera import threads
from edge_vit.camera.sources.source import Capture, FrameSource, SourceMaker
from edge_vit.camera.values import Counts, Frame, SourceFormat, SourceState, SourceStatus, Stamps
from edge_vit.errors import DeviceLostError, EdgeVitError, ImageError, SourceError, SpecError

_LOG = logging.getLogger(__name__)
_ABORT_GRACE_NS = 2 * 10**9  # what an aborted read may take before its thread is given up
_MAX_REASONS = 16  # of frames that cannot be decoded
_MAX_HUNG = 4  # threads, each holding what it holds, before the process is left


@dataclass(frozen=True)
class RetryPolicy:
    """How long a live source may be silent, and when it is tried again.

    The pause before a try doubles with every try that fails, up to `max_retry_s`; a source that ran
    for so long counts as well again.
    """

    stale_after_s: float = 5.0  # of silence, after which it is closed and opened anew
    open_timeout_s: float = 15.0  # up to its first frame
    first_retry_s: float = 0.5
    max_retry_s: float = 30.0
    jitter: float = 0.5  # share of a pause that chance takes away: not all devices knock at once

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 < value < float("inf"):
                raise SpecError(f"{name}: got {value}, expected above 0")

    def retry_ns(self, num_failures: int, chance: float) -> int:
        """Return the pause, nanoseconds, after failures in a row; `chance` 0 gives the longest."""
        seconds = min(self.first_retry_s * 2.0 ** min(num_failures - 1, 30), self.max_retry_s)
        return round(seconds * (1 - self.jitter * chance) * 1e9)


class SourceCapture:
    """Frames of one source, numbered and stamped, until it is stopped."""

    def __init__(
        self,
        maker: SourceMaker,
        deliver: Callable[[Frame], None],
        ended: Callable[[], None],
        *,
        clock: threads.Clock = threads.SYSTEM_CLOCK,
        retry: RetryPolicy | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.maker = maker
        self.error: EdgeVitError | None = None  # why it ended before its time
        self._deliver, self._ended = deliver, ended
        self._clock, self._retry, self._chance = clock, retry or RetryPolicy(), chance
        self._changed = threading.Condition()
        self._state: SourceState = "opening"
        self._format: SourceFormat | None = None
        self._source: FrameSource | None = None
        self._generation = 0  # of the thread that may deliver; those before it were given up
        self._heard_ns = 0  # last sign of life, or last request for one
        self._running_since_ns = 0
        self._num_failures = self._num_opened = 0
        self._last_error = ""
        self._is_stopping = False
        self._warnings = threads.RateLimitedWarnings(_LOG)  # of single frames
        self._thread: threading.Thread | None = None
        self._hung: list[threading.Thread] = []  # given up, and not back yet
        self.num_captured = self.num_undecoded = 0
        self.undecoded: Counter[str] = Counter()  # reason -> frames

    def start(self) -> None:
        """Begin to read."""
        with self._changed:
            self._start_thread()

    def stop(self) -> None:
        """End as soon as possible, without waiting for it."""
        with self._changed:
            self._is_stopping = True
            source = self._source
            self._changed.notify_all()
        if source is not None:
            self._abort(source)

    def join(self, until_ns: int) -> bool:
        """Wait until the source's thread has ended, or until `until_ns`; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(max(0, until_ns - threads.SYSTEM_CLOCK.now_ns()) / 1e9)
        return not self._thread.is_alive()

    def check(self) -> int | None:
        """Open the source anew where it was silent for too long; return when to check again."""
        now = self._clock.now_ns()
        aborted = None
        with self._changed:
            if not self.maker.is_live or self._state == "ended" or self._is_stopping:
                return None
            # Look again at least so often: it may be in another state by then.
            soon_ns = now + self._limit_ns("running")
            due_ns = self._heard_ns + self._limit_ns(self._state)
            if self._state == "waiting" or now < due_ns:
                return min(soon_ns, max(due_ns, now + 1))
            self._heard_ns = now
            if self._state == "stale":
                self._refuse_to_hang()
                self._start_thread()
                return now + self._limit_ns("opening")
            _LOG.warning("source %s is silent; closing it", self.maker.name)
            self._state = "stale"
            aborted = self._source
        if aborted is not None:
            self._abort(aborted)
        return now + _ABORT_GRACE_NS

    def status(self, counts: Counts) -> SourceStatus:
        """Return the state of the source, with the loop's counts of its frames."""
        with self._changed:
            return SourceStatus(
                *(self.maker.name, self._state, self.maker.is_live, self._format, counts),
                *(max(0, self._num_opened - 1), self._last_error, dict(self.undecoded)),
            )

    @property
    def is_watched(self) -> bool:
        """Whether frames are to be expected: it is live and has not ended."""
        return self.maker.is_live and self._state != "ended"

    @property
    def is_hopeless(self) -> bool:
        """Whether it never worked and never can: a wrong address, a package that is missing."""
        is_about_now = isinstance(self.error, SourceError | ImageError)
        return self.error is not None and not is_about_now and self.num_captured == 0

    def _refuse_to_hang(self) -> None:
        """Note that the thread does not come back from an aborted read; bear that a few times."""
        self._last_error = "hung"
        self._hung = [thread for thread in self._hung if thread.is_alive()]
        if self._thread is not None:
            self._hung.append(self._thread)
        if len(self._hung) >= _MAX_HUNG:
            raise DeviceLostError(
                f"source {self.maker.name}: {_MAX_HUNG} threads hang in it, its driver needs a new "
                "process"
            )
        _LOG.warning("source %s hangs; another thread opens it anew", self.maker.name)

    def _limit_ns(self, state: SourceState) -> int:
        if state == "stale":
            return _ABORT_GRACE_NS
        seconds = self._retry.stale_after_s if state == "running" else self._retry.open_timeout_s
        return round(seconds * 1e9)

    def _start_thread(self) -> None:
        """Let a new thread have the source; the caller holds the lock."""
        self._generation += 1
        self._state = "opening"
        self._heard_ns = self._clock.now_ns()
        generation = self._generation
        self._thread = threads.start_thread(
            f"source {self.maker.name}",
            partial(self._run, generation),
            partial(self._end, generation),
        )

    def _run(self, generation: int) -> None:
        while self._is_mine(generation):
            try:
                self._read_once(generation)
                break
            except BaseException as lost:
                self._pause(generation, self._explain(lost))
        self._end(generation)

    def _end(self, generation: int, error: EdgeVitError | None = None) -> None:
        """Note that the thread of `generation` ends, because of `error` or at the source's end."""
        with self._changed:
            if generation != self._generation:
                return
            self._state = "ended"
            if error is not None and not self._is_stopping:
                self.error, self._last_error = error, threads.describe(error)
                _LOG.debug("source %s ends: %s", self.maker.name, self._last_error)
        self._ended()

    def _explain(self, lost: BaseException) -> EdgeVitError:
        """Return what ended a reading, if another may go better; raise it where it never can."""
        if not isinstance(lost, EdgeVitError):
            lost = SourceError(str(threads.as_error(lost, f"source {self.maker.name}")))
        # The first frame of a camera may be broken, as its address may be wrong.
        may_come_back = isinstance(lost, SourceError | ImageError) or self.num_captured > 0
        if self.maker.is_live and may_come_back:
            return lost
        raise lost

    def _read_once(self, generation: int) -> None:
        source = self.maker.make()
        with self._changed:
            if not self._begin(generation, "opening"):
                return
            self._source = source
        try:
            given = source.open()
            with self._changed:
                if not self._is_mine(generation):
                    return
                self._format = given
                self._num_opened += 1
                self._heard_ns = self._clock.now_ns()
            while (frame := self._next_frame(source, generation)) is not _END:
                if isinstance(frame, Frame):
                    self._deliver(frame)
        finally:
            threads.attempt(f"closing source {self.maker.name}", source.close)

    def _next_frame(self, source: FrameSource, generation: int) -> Frame | object:
        """The next frame, `_BAD` for one that cannot be decoded, `_END` when no more come."""
        capture, reason = None, ""
        try:
            capture = source.read()
        except ImageError as error:
            reason = threads.describe(error)
            self._warnings.warn(reason, f"source {self.maker.name}: {reason}")
        if capture is None and not reason:
            if self.maker.is_live and self._is_mine(generation):
                raise SourceError(f"source {self.maker.name} came to its end")
            return _END
        now = self._clock.now_ns()
        with self._changed:
            if not self._begin(generation, "running"):
                return _END
            self._heard_ns = now
            self.num_captured += 1
            if capture is None:
                self.num_undecoded += 1
                known = reason in self.undecoded or len(self.undecoded) < _MAX_REASONS
                self.undecoded[reason if known else "other reasons"] += 1
                return _BAD
            return self._stamp(capture, self.num_captured - 1, now)

    def _stamp(self, capture: Capture, number: int, now: int) -> Frame:
        captured_ns = now if capture.captured_ns is None else min(capture.captured_ns, now)
        unix_ns = self._clock.unix_ns() - (now - captured_ns)
        stamps = Stamps(captured_ns, now, captured_unix_ns=unix_ns, clock=capture.clock)
        return Frame(number, self.maker.name, capture.pixels, stamps, self.maker.is_live)

    def _begin(self, generation: int, state: SourceState) -> bool:
        """Note that the thread of `generation` is in `state`, if it still may be there."""
        if not self._is_mine(generation):
            return False
        if state != self._state:
            self._state = state
            self._heard_ns = self._clock.now_ns()
            self._running_since_ns = self._heard_ns if state == "running" else 0
        return True

    def _is_mine(self, generation: int) -> bool:
        return generation == self._generation and not self._is_stopping

    def _pause(self, generation: int, lost: EdgeVitError) -> None:
        with self._changed:
            if not self._is_mine(generation):
                return
            now = self._clock.now_ns()
            ran_ns = now - self._running_since_ns if self._running_since_ns else 0
            if ran_ns >= self._retry.max_retry_s * 1e9:
                self._num_failures = 0
            self._num_failures += 1
            pause_ns = self._retry.retry_ns(self._num_failures, self._chance())
            if self._state == "stale":  # what an aborted read raises says nothing
                lost = SourceError(f"source {self.maker.name} was silent")
            self._last_error = threads.describe(lost)
            self._state, self._source = "waiting", None
            _LOG.warning("%s; trying again in %.1f s", self._last_error, pause_ns / 1e9)
            while self._is_mine(generation) and self._clock.now_ns() < now + pause_ns:
                self._clock.wait(self._changed, now + pause_ns)
            self._begin(generation, "opening")

    def _abort(self, source: FrameSource) -> None:
        threads.attempt(f"stopping source {self.maker.name}", source.abort)


_END, _BAD = object(), object()
