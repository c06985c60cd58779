from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import pytest
from camera.scripted import ScriptedClock, ScriptedSource
from camera.scripted_loops import NEVER_SILENT

from edge_vit.camera.capture import RetryPolicy, SourceCapture
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.values import Counts
from edge_vit.errors import DeviceLostError, SourceError, SpecError


@pytest.mark.parametrize(
    ("failures", "chance", "seconds"),
    [(1, 0, 0.5), (2, 0, 1), (4, 0, 4), (7, 0, 30), (1000, 0, 30), (2, 1, 0.5), (1000, 0.5, 22.5)],
)
def test_pauses_double_up_to_a_limit_and_chance_shortens_them(failures, chance, seconds):
    assert RetryPolicy().retry_ns(failures, chance) == seconds * 1e9


def test_refuses_impossible_patience():
    with pytest.raises(SpecError, match="stale_after_s: got 0"):
        RetryPolicy(stale_after_s=0)


class Watched:
    """A live source that a test looks at: when it is opened, and what it gives."""

    def __init__(self, script, clock):
        self.openings = []
        self.frames = []
        self.has_frame = threading.Semaphore(0)
        self.ended = threading.Event()
        self.is_opened = threading.Semaphore(0)
        self._script, self._clock = script, clock

    def make(self):
        self.openings.append(self._clock.now_ns() / 1e9)
        self.is_opened.release()
        return ScriptedSource(self._script, self._clock, 1e-9)

    def start(self, **settings):
        self.capture = SourceCapture(
            SourceMaker("cam", True, self.make),
            self.deliver,
            self.ended.set,
            clock=self._clock,
            chance=lambda: 0,
            **settings,
        )
        self.capture.start()
        return self.capture

    def deliver(self, frame):
        self.frames.append(frame)
        self.has_frame.release()


def test_a_source_that_fails_again_and_again_is_tried_ever_more_rarely():
    clock = ScriptedClock()
    watched = Watched(iter([SourceError("cam: refused")] * 6 + [lambda s: s.hang()]), clock)
    with clock.passing(speed=1000):
        capture = watched.start(retry=RetryPolicy(stale_after_s=1000, open_timeout_s=1000))
        for _ in range(7):
            assert watched.is_opened.acquire(timeout=30)
    capture.stop()
    assert watched.ended.wait(30)
    pauses = [b - a for a, b in zip(watched.openings, watched.openings[1:], strict=False)]
    for pause, least in zip(pauses, (0.5, 1, 2, 4, 8, 16), strict=True):
        assert pause >= least
    assert capture.status(Counts()).last_error == "cam: refused"


def test_stopping_ends_a_pause_at_once():
    clock = ScriptedClock()
    watched = Watched(iter([SourceError("cam: refused")]), clock)
    capture = watched.start()
    assert watched.is_opened.acquire(timeout=30)
    capture.stop()
    assert watched.ended.wait(30)
    assert capture.status(Counts()).state == "ended"


def test_a_thread_that_hangs_for_good_is_left_behind_and_what_it_gives_later_is_ignored():
    clock, release = ScriptedClock(), threading.Event()
    given_up, hangs = threading.Event(), threading.Event()

    def hang(source):
        hangs.set()
        release.wait(60)
        given_up.set()
        return 77

    def hang_again(source):
        return source.hang()

    script = iter([1, hang, 2, hang_again])
    watched = Watched(script, clock)
    capture = watched.start()
    assert watched.has_frame.acquire(timeout=30) and hangs.wait(30)
    clock.advance(6)
    capture.check()  # silent: aborted
    clock.advance(3)
    capture.check()  # still not back: another thread
    assert watched.has_frame.acquire(timeout=30)
    release.set()
    assert given_up.wait(30)
    capture.stop()
    assert watched.ended.wait(30)
    assert [frame.number for frame in watched.frames] == [0, 1]
    assert [int(frame.pixels[0, 0, 0]) for frame in watched.frames] == [1, 2]
    assert capture.num_captured == 2


def test_a_driver_that_hangs_every_time_needs_a_new_process():
    clock, release, hangs = ScriptedClock(), threading.Event(), threading.Semaphore(0)

    def hang(source):
        hangs.release()
        release.wait(60)

    watched = Watched(iter([hang] * 9), clock)
    capture = watched.start()
    for _ in range(3):
        assert hangs.acquire(timeout=30)
        clock.advance(20)
        capture.check()  # silent: aborted
        clock.advance(3)
        capture.check()  # not back: given up
    assert hangs.acquire(timeout=30)
    clock.advance(20)
    capture.check()
    clock.advance(3)
    with pytest.raises(DeviceLostError, match="cam: 4 threads hang in it") as caught:
        capture.check()
    assert caught.value.exit_status == 4
    capture.stop()
    release.set()


def test_a_capture_stamp_from_the_future_is_taken_for_now():
    clock = ScriptedClock()

    class Ahead(ScriptedSource):
        def read(self):
            capture = super().read()
            ahead_ns = clock.now_ns() + 10**12
            return capture and dataclasses.replace(capture, captured_ns=ahead_ns)

    frames, ended = [], threading.Event()
    SourceCapture(
        SourceMaker("file", False, lambda: Ahead(iter([1]), clock, 0.1)),
        frames.append,
        ended.set,
        clock=clock,
    ).start()
    assert ended.wait(30)
    assert frames[0].stamps.captured_ns <= frames[0].stamps.received_ns


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (
            ValueError("what a decoder raises"),
            "source cam failed: ValueError: what a decoder raises",
        ),
        (SpecError("could not link"), "could not link"),  # it worked before: it may again
    ],
)
def test_whatever_a_live_source_raises_it_is_opened_again(event, message):
    clock = ScriptedClock()
    watched = Watched(iter([1, event, 2, lambda source: source.hang()]), clock)
    with clock.passing():
        capture = watched.start(retry=NEVER_SILENT)
        for _ in range(2):
            assert watched.has_frame.acquire(timeout=30)
    assert capture.status(Counts()).last_error == message
    capture.stop()
    assert watched.ended.wait(30)
    assert capture.error is None


def test_a_source_that_ran_for_long_is_tried_soon_again_though_it_fell_silent():
    clock, is_silent = ScriptedClock(), threading.Semaphore(0)

    def silent(source):
        is_silent.release()
        return source.hang()

    # Each opening: one frame at once, one after 40 s, then silence. So it goes for weeks.
    def after_a_while(source):
        clock.advance(40)
        return 2

    script = itertools.cycle([1, after_a_while, silent])
    watched = Watched(script, clock)
    capture = watched.start()
    for opening in range(1, 8):
        for _ in range(2):
            assert watched.has_frame.acquire(timeout=30)
        assert is_silent.acquire(timeout=30)
        clock.advance(6)
        capture.check()
        deadline = time.monotonic() + 30
        while len(watched.openings) == opening and time.monotonic() < deadline:
            clock.advance(0.1)
            time.sleep(0.001)
    assert capture._num_failures <= 1
    capture.stop()
    assert watched.ended.wait(30)
