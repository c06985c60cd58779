from __future__ import annotations

import threading

import pytest
from camera.scripted import make_prediction

from edge_vit.camera.sink import SinkRunner
from edge_vit.camera.threads import SYSTEM_CLOCK

LATER_NS = 30 * 10**9


class Recorder:
    """A sink that keeps what it took, as slow and as faulty as a test wants it."""

    name = "recorder"
    needs_pixels = True

    def __init__(self, queue_size=4, fails_on=()):
        self.queue_size = queue_size
        self.fails_on = fails_on
        self.numbers = []
        self.is_closed = False
        self.began = threading.Semaphore(0)
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def open(self, summarize):
        """Nothing to do."""

    def write(self, prediction):
        self.began.release()
        assert self.may_go_on.wait(30)
        if prediction.frame.number in self.fails_on:
            raise OSError("the broker\nwent away")
        self.numbers.append(prediction.frame.number)

    def close(self):
        self.is_closed = True


def until_later():
    return SYSTEM_CLOCK.now_ns() + LATER_NS


def test_writes_every_answer_in_order_and_closes_the_sink():
    sink = Recorder(queue_size=100)
    runner = SinkRunner(sink)
    for number in range(50):
        runner.offer(make_prediction(number))
    assert runner.join(until_later())
    assert sink.numbers == list(range(50))
    assert sink.is_closed
    assert runner.status().written == 50


def test_a_slow_sink_loses_the_oldest_live_answers_and_slows_nobody():
    sink = Recorder(queue_size=4)
    sink.may_go_on.clear()
    runner = SinkRunner(sink)
    runner.offer(make_prediction(0))
    assert sink.began.acquire(timeout=30)
    for number in range(1, 20):
        runner.offer(make_prediction(number))  # returns, though the sink hangs
    sink.may_go_on.set()
    assert runner.join(until_later())
    assert sink.numbers == [0, 16, 17, 18, 19]
    status = runner.status()
    assert (status.written, status.dropped) == (5, 15)


def test_of_a_file_no_answer_is_dropped_and_each_says_when_it_waits_no_more():
    sink, taken = Recorder(queue_size=2), []
    sink.may_go_on.clear()
    runner = SinkRunner(sink)
    for number in range(20):  # returns, though the sink hangs: the loop bounds how many there are
        runner.offer(
            make_prediction(number, is_live=False), lambda number=number: taken.append(number)
        )
    assert taken == []
    sink.may_go_on.set()
    assert runner.join(until_later())
    assert sink.numbers == taken == list(range(20))
    assert runner.status().dropped == 0


def test_each_source_has_its_turn_and_its_own_queue():
    sink = Recorder(queue_size=2)
    sink.may_go_on.clear()
    runner = SinkRunner(sink)
    runner.offer(make_prediction(100, is_live=False, source="file"))
    assert sink.began.acquire(timeout=30)
    for number in range(101, 120):
        runner.offer(make_prediction(number, is_live=False, source="file"))
    for number in range(5):
        runner.offer(make_prediction(number, source="camera"))
    sink.may_go_on.set()
    assert runner.join(until_later())
    assert [number for number in sink.numbers if number >= 100] == list(range(100, 120))
    assert [sink.numbers.index(number) for number in (3, 4)] == [2, 4]  # after one of the file each


def test_a_sink_that_raises_is_offered_the_next_answer(caplog):
    sink = Recorder(queue_size=100, fails_on=(1, 2))
    runner = SinkRunner(sink)
    for number in range(5):
        runner.offer(make_prediction(number))
    assert runner.join(until_later())
    assert sink.numbers == [0, 3, 4]
    assert runner.status().failed == 2
    assert runner.status().last_error == "the broker went away"
    assert caplog.messages == ["sink recorder failed: the broker went away"]


def test_a_sink_that_hangs_does_not_keep_the_loop():
    sink = Recorder(queue_size=4)
    sink.may_go_on.clear()
    runner = SinkRunner(sink)
    for number in range(3):
        runner.offer(make_prediction(number))
    assert sink.began.acquire(timeout=30)
    assert not runner.join(SYSTEM_CLOCK.now_ns() + 10**7)
    assert runner.status().dropped == 2
    sink.may_go_on.set()


def test_nothing_is_queued_after_the_end():
    runner = SinkRunner(Recorder())
    assert runner.join(until_later())
    runner.offer(make_prediction(1))
    assert runner.status().dropped == 1


@pytest.mark.parametrize("is_live", [True, False])
def test_every_answer_is_written_or_dropped_and_says_so_once(is_live):
    sink, taken = Recorder(queue_size=1), []
    sink.may_go_on.clear()
    runner = SinkRunner(sink)
    for number in range(5):
        runner.offer(make_prediction(number, is_live=is_live), lambda n=number: taken.append(n))
    assert sink.began.acquire(timeout=30)
    assert not runner.join(SYSTEM_CLOCK.now_ns() + 10**7)
    runner.offer(make_prediction(5, is_live=is_live), lambda: taken.append(5))
    sink.may_go_on.set()
    assert runner.join(until_later())
    status = runner.status()
    assert status.written + status.dropped == 6
    assert sorted(taken) == list(range(6))


def test_pictures_do_not_wait_with_the_answers_of_a_sink_that_looks_at_none():
    seen = []

    class Blind(Recorder):
        needs_pixels = False

        def write(self, prediction):
            seen.append(prediction.frame.pixels)

    prediction = make_prediction(7)
    runner = SinkRunner(Blind())
    runner.offer(prediction)
    assert runner.join(until_later())
    assert seen[0].shape == prediction.frame.pixels.shape
    assert seen[0].strides == (0, 0, 0)
    assert prediction.frame.pixels.any()
