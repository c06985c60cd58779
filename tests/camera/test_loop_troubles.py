"""The loop when a source, the session or a sink fails."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker
from camera.scripted_loops import NEVER_SILENT, SPEC, Faulty, endless, live_loop, run_loop

from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.errors import (
    ArtifactError,
    BackendError,
    DeviceLostError,
    ImageError,
    MissingDependencyError,
    SourceError,
    SpecError,
)
from edge_vit.runtime.fake import FakeSession


def test_a_lost_source_is_opened_again_and_its_frames_go_on_counting():
    lost = SourceError("source script: unplugged")
    sink = Recorder()

    def events():
        for number in range(10**9):
            yield lost if number % 500 == 499 else number

    retry = dataclasses.replace(NEVER_SILENT, max_retry_s=1)
    summary = live_loop(events(), sink, 200, retry=retry)
    (source,) = summary.sources
    assert source.num_reopened >= 1
    assert "unplugged" in source.last_error
    assert sink.numbers == sorted(set(sink.numbers))


def test_a_silent_source_is_closed_and_opened_again(caplog):
    sink = Recorder()

    def events():
        yield from range(5)
        yield lambda source: source.hang()
        yield from range(10**9)

    summary = live_loop(events(), sink, 100, retry=RetryPolicy())
    assert summary.sources[0].num_reopened >= 1
    assert "source script is silent; closing it" in caplog.messages


def test_no_answer_for_too_long_ends_with_its_own_status():
    clock = ScriptedClock()

    def events():
        yield from range(5)
        while True:
            yield lambda source: source.hang()

    expected = pytest.raises(DeviceLostError, match=r"no answer for 20 s: script is \w+")
    with clock.passing(), expected as caught:
        run_loop([scripted_maker(events(), clock)], clock, prediction_timeout_s=20)
    assert caught.value.exit_status == 4


def test_a_lost_gpu_ends_the_loop_at_once():
    clock = ScriptedClock()
    session = Faulty({3: DeviceLostError("CUDA error 700 stays")})
    with pytest.raises(DeviceLostError, match="CUDA error 700"):
        run_loop([scripted_maker(endless(), clock)], clock, session=session, prediction_timeout_s=0)


def test_a_run_that_does_not_return_ends_the_loop():
    clock, release = ScriptedClock(), threading.Event()

    class Hung(FakeSession):
        def _run(self, feeds):
            while not release.wait(0.001):
                clock.advance(1)
            return super()._run(feeds)

    loop = CameraLoop(
        [scripted_maker(range(9), clock, is_live=False)], Hung(SPEC), SPEC, clock=clock
    )
    with pytest.raises(DeviceLostError, match="a run of tiny on fake does not return"):
        loop.run()
    assert loop.is_stuck
    release.set()


def test_frames_that_fail_are_counted_and_the_others_answered(caplog):
    clock, sink = ScriptedClock(), Recorder()
    session = Faulty({2: BackendError("out of memory"), 3: BackendError("out of memory")})
    events = [0, 1, 2, 3, ImageError("frame is damaged"), 5, 6]
    with pytest.raises(SourceError, match="script: 3 of 7 frames have no answer"):
        run_loop([scripted_maker(events, clock, is_live=False)], clock, [sink], session=session)
    assert sink.numbers == [0, 1, 5, 6]
    assert "source script: frame is damaged" in caplog.messages
    assert caplog.messages.count("frame 2 of script: out of memory") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_no_answer(value):
    class Overflowing(FakeSession):
        def _run(self, feeds):
            return {"logits": np.full((len(feeds["images"]), 10), value, np.float32)}

    clock, sink = ScriptedClock(), Recorder()
    with pytest.raises(SourceError, match="3 of 3"):
        run_loop([scripted_maker(range(3), clock, is_live=False)], clock, [sink], Overflowing(SPEC))
    assert sink.predictions == []


def test_a_file_that_breaks_off_ends_with_its_reason_and_keeps_what_came_before():
    clock, sink = ScriptedClock(), Recorder()
    maker = scripted_maker([0, 1, SourceError("a.mp4 breaks off")], clock, is_live=False)
    with pytest.raises(SourceError, match="breaks off"):
        run_loop([maker], clock, [sink])
    assert sink.numbers == [0, 1]


def test_a_source_that_can_never_work_ends_the_loop():
    clock = ScriptedClock()
    maker = scripted_maker([MissingDependencyError("it needs av")], clock)
    with pytest.raises(MissingDependencyError, match="needs av"):
        run_loop([maker], clock)


def test_a_sink_that_fails_takes_nothing_from_the_others():
    clock = ScriptedClock()
    bad, good = Recorder(fails_on=lambda number: number % 2 == 0), Recorder()
    makers = [scripted_maker(range(40), clock, is_live=False)]
    loop = CameraLoop(makers, FakeSession(SPEC), SPEC, sinks=[bad, good], clock=clock)
    with pytest.raises(ArtifactError, match="20 of 40 answers failed"):
        loop.run()
    summary = loop.summary()
    assert good.numbers == list(range(40))
    assert [(sink.written, sink.failed) for sink in summary.sinks] == [(20, 20), (40, 0)]


def test_a_sink_that_cannot_open_ends_the_loop_before_the_first_frame():
    class Closed(Recorder):
        def open(self, summarize):
            raise SpecError("port 80 is not ours")

    clock = ScriptedClock()
    with pytest.raises(SpecError, match="port 80"):
        run_loop([scripted_maker(range(5), clock, is_live=False)], clock, [Closed()])


def unopened(name, error, clock, *, is_live):
    """Return the maker of a source whose `open` raises."""
    maker = scripted_maker([], clock, name=name, is_live=is_live)

    def make():
        def refuse():
            raise error

        source = maker.make()
        source.open = refuse
        return source

    return dataclasses.replace(maker, make=make)


def test_one_wrong_address_among_several_ends_the_loop_at_once():
    clock = ScriptedClock()
    wrong = unopened("wrong", SpecError("no element 'nosuch'"), clock, is_live=True)
    makers = [scripted_maker(endless(), clock), wrong]
    with pytest.raises(SpecError, match="no element 'nosuch'"):
        run_loop(makers, clock, prediction_timeout_s=0)


def test_a_file_that_cannot_be_opened_keeps_no_other_from_being_answered():
    clock, sink = ScriptedClock(), Recorder()
    bad = unopened("b.mp4", SourceError("b.mp4 cannot be opened"), clock, is_live=False)
    makers = [scripted_maker(range(50), clock, is_live=False), bad]
    with pytest.raises(SourceError, match=r"b\.mp4 cannot be opened"):
        run_loop(makers, clock, [sink])
    assert sink.numbers == list(range(50))


def test_a_file_whose_answers_a_sink_lost_is_no_success():
    clock, sink = ScriptedClock(), Recorder(fails_on=lambda number: number == 1)
    with pytest.raises(ArtifactError, match=r"1 of 3 answers failed, the last: "):
        run_loop([scripted_maker(range(3), clock, is_live=False)], clock, [sink])
