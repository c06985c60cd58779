"""A live camera beside a file: each has its own way through the stages to every sink."""

from __future__ import annotations

import threading
import time

import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker
from camera.scripted_loops import SPEC

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.stages import LoopOptions
from edge_vit.runtime.fake import FakeSession

WITHIN_S = 120


class Slow(Recorder):
    """A sink that takes as long as `quick` takes for some answers, or hangs on those of a file."""

    queue_size = 4

    def __init__(self, quick=None, hangs=None):
        super().__init__()
        self.quick, self.hangs = quick, hangs

    def write(self, prediction):
        if self.hangs is not None and not prediction.frame.is_live:
            assert self.hangs.wait(WITHIN_S)
        if self.quick is not None:
            quick, enough = self.quick, len(self.quick.of("camera")) + 3
            wait_until(lambda: len(quick.of("camera")) >= enough or self.quick is None)
        super().write(prediction)

    def of(self, source):
        return [
            prediction.frame.number
            for prediction in self.predictions
            if prediction.frame.source == source
        ]


def wait_until(holds):
    """Wait until `holds()`, on a busy machine for long; return whether it does."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def paced(count, seconds=0.002):
    for number in range(count):
        time.sleep(seconds)
        yield number


def run_beside_a_file(sinks, until, batch_size=1):
    """Run a live and an endless file source until `until()`; return the loop's summary."""
    clock = ScriptedClock()
    loop = CameraLoop(
        [
            scripted_maker(paced(10**6), clock, name="camera"),
            scripted_maker(range(10**6), clock, name="file", is_live=False),
        ],
        FakeSession(SPEC),
        SPEC,
        sinks=sinks,
        options=LoopOptions(batch_size=batch_size, prediction_timeout_s=0),
        clock=clock,
    )
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    is_reached = wait_until(lambda: until(loop))
    loop.stop()
    for sink in sinks:
        sink.quick = None
    thread.join(WITHIN_S)
    assert is_reached and not thread.is_alive()
    return loop.summary()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_slow_sink_holds_the_file_back_and_not_the_camera(batch_size):
    quick = Slow()
    slow = Slow(quick)
    summary = run_beside_a_file(
        [slow, quick],
        lambda loop: len(slow.of("file")) >= 20 and len(slow.of("camera")) >= 20,
        batch_size,
    )
    _, file = summary.sources
    # The slow sink takes them in turns; the quick one gets what the engine answers.
    assert 0.5 < len(slow.of("camera")) / len(slow.of("file")) < 2
    assert len(quick.of("camera")) > len(slow.of("camera"))
    assert slow.of("file") == list(range(len(slow.of("file"))))
    assert file.counts.dropped <= 4 * batch_size + 8 + 1  # those that the end found on their way


def test_a_sink_that_hangs_on_a_file_does_not_keep_the_camera_from_others():
    hangs = threading.Event()
    quick = Slow()
    stuck = Slow(hangs=hangs)
    summary = run_beside_a_file([stuck, quick], lambda loop: len(quick.of("camera")) >= 50)
    hangs.set()
    camera, file = summary.sources
    assert camera.counts.answered >= 50
    assert file.counts.captured < 50


def test_frames_of_a_file_on_their_way_are_bounded():
    hangs = threading.Event()
    stuck, seen = Slow(hangs=hangs), []

    def until(loop):
        sources = loop.summary().sources
        seen.append(sources[1].counts)
        return sources[0].counts.answered >= 100

    run_beside_a_file([stuck], until)
    hangs.set()
    assert max(counts.captured for counts in seen) <= 4 + 8 + 1
