"""A live camera beside a file: each has its own way through the stages to every sink."""

from __future__ import annotations

import threading
import time

import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker
from camera.scripted_loops import SPEC

from edge_vit.camera.loop import CameraLoop, LoopOptions
from edge_vit.runtime.fake import FakeSession


class Slow(Recorder):
    """A sink that takes its time, or hangs on the answers of a file."""

    queue_size = 4

    def __init__(self, seconds, hangs=None):
        super().__init__()
        self.seconds, self.hangs = seconds, hangs

    def write(self, answer):
        if self.hangs is not None and not answer.frame.is_live:
            assert self.hangs.wait(30)
        time.sleep(self.seconds)
        super().write(answer)

    def of(self, source):
        return [answer.frame.number for answer in self.answers if answer.frame.source == source]


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
        options=LoopOptions(batch_size=batch_size, answer_timeout_s=0),
        clock=clock,
    )
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not until(loop) and time.monotonic() < deadline:
        time.sleep(0.01)
    is_reached = until(loop)
    loop.stop()
    thread.join(30)
    assert is_reached and not thread.is_alive()
    return loop.summary()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_slow_sink_holds_the_file_back_and_not_the_camera(batch_size):
    slow, quick = Slow(0.01), Slow(0)
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
    assert file.counts.dropped <= 4 * batch_size + 8  # those that the end found on their way


def test_a_sink_that_hangs_on_a_file_does_not_keep_the_camera_from_others():
    hangs = threading.Event()
    stuck, quick = Slow(0, hangs), Slow(0)
    summary = run_beside_a_file([stuck, quick], lambda loop: len(quick.of("camera")) >= 50)
    hangs.set()
    camera, file = summary.sources
    assert camera.counts.answered >= 50
    assert file.counts.captured < 50


def test_frames_of_a_file_on_their_way_are_bounded():
    hangs = threading.Event()
    stuck, seen = Slow(0, hangs), []

    def until(loop):
        sources = loop.summary().sources
        seen.append(sources[1].counts)
        return sources[0].counts.answered >= 100

    run_beside_a_file([stuck], until)
    hangs.set()
    assert max(counts.captured for counts in seen) <= 4 + 8 + 1
