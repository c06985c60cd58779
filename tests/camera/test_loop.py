"""The production loop and its threads; only source, clock and session are replaced."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker, tiny_spec

from edge_vit.camera.loop import CameraLoop, LoopOptions
from edge_vit.camera.patience import Patience
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

SPEC = tiny_spec()


def run_loop(makers, clock, sinks=(), session=None, **options):
    loop = CameraLoop(
        makers,
        session or FakeSession(SPEC),
        SPEC,
        sinks=sinks,
        options=LoopOptions(**options),
        clock=clock,
    )
    return loop.run()


class Faulty(FakeSession):
    """A session that raises what it is told to, on the runs that it is told to."""

    def __init__(self, errors):
        super().__init__(SPEC)
        self._errors, self._runs = errors, 0

    def _run(self, feeds):
        self._runs += 1
        if self._runs - 1 in self._errors:
            raise self._errors[self._runs - 1]
        return super()._run(feeds)


def test_a_file_loses_no_frame_and_keeps_their_order():
    clock, sink = ScriptedClock(), Recorder()
    summary = run_loop([scripted_maker(range(300), clock, is_live=False)], clock, [sink])
    assert sink.numbers == list(range(300))
    assert sink.is_closed
    assert (summary.counts.captured, summary.counts.answered) == (300, 300)
    assert summary.counts.dropped == summary.counts.failed == summary.counts.in_flight == 0


def test_every_answer_is_that_of_its_own_frame():
    clock, sink = ScriptedClock(), Recorder()
    run_loop([scripted_maker(range(40), clock, is_live=False)], clock, [sink], batch_size=4)
    for answer in sink.answers:
        assert answer.frame.pixels[0, 0, 0] == answer.frame.number % 251
        image = np.full((1, 8, 8, 3), answer.frame.number % 251, np.uint8)
        np.testing.assert_array_equal(
            answer.output, FakeSession(SPEC).run({"images": image})["logits"][0]
        )


def endless(stop_at=10**9):
    yield from range(stop_at)


def stop_after(loop, sink, count):
    """Let a sink stop the loop when it has taken `count` answers."""
    write = sink.write

    def write_and_stop(answer):
        write(answer)
        if len(sink.answers) == count:
            threading.Thread(target=loop.stop).start()

    sink.write = write_and_stop


def live_loop(events, sink, count, clock=None, session=None, **options):
    """Run a live source until `sink` has `count` answers; return the summary."""
    clock = clock or ScriptedClock()
    options.setdefault("answer_timeout_s", 0)  # scripted time flies
    loop = CameraLoop(
        [scripted_maker(events, clock)],
        session or FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(**options),
        clock=clock,
    )
    stop_after(loop, sink, count)
    with clock.passing():
        return loop.run()


def test_a_live_source_loses_old_frames_and_counts_them():
    sink = Recorder()
    summary = live_loop(endless(), sink, 50, session=FakeSession(SPEC, delay_ms=2))
    counts = summary.counts
    assert counts.dropped > 0
    assert counts.captured == counts.answered + counts.dropped + counts.failed
    assert sink.numbers == sorted(set(sink.numbers))
    gaps = np.diff([-1, *sink.numbers]) - 1
    assert [answer.num_dropped for answer in sink.answers][-1] >= 0
    assert sum(answer.num_dropped for answer in sink.answers) <= counts.dropped
    assert gaps.sum() <= counts.dropped


def test_a_lost_source_is_opened_again_and_its_frames_go_on_counting():
    lost = SourceError("source script: unplugged")
    sink = Recorder()

    def events():
        for number in range(10**9):
            yield lost if number % 500 == 499 else number

    patience = Patience(max_retry_s=1)
    summary = live_loop(events(), sink, 200, patience=patience)
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

    summary = live_loop(events(), sink, 100, answer_timeout_s=0)
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
        run_loop([scripted_maker(events(), clock)], clock, answer_timeout_s=20)
    assert caught.value.exit_status == 4


def test_a_lost_gpu_ends_the_loop_at_once():
    clock = ScriptedClock()
    session = Faulty({3: DeviceLostError("CUDA error 700 stays")})
    with pytest.raises(DeviceLostError, match="CUDA error 700"):
        run_loop([scripted_maker(endless(), clock)], clock, session=session, answer_timeout_s=0)


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
    assert sink.answers == []


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


def test_several_sources_share_one_engine_fairly():
    clock, sink = ScriptedClock(), Recorder()
    makers = [
        scripted_maker(range(count), clock, name=f"file{count}", is_live=False)
        for count in (50, 70, 90)
    ]
    with clock.passing():
        summary = run_loop(makers, clock, [sink], batch_size=3, deadline_ms=1)
    for maker, count in zip(makers, (50, 70, 90), strict=True):
        numbers = [a.frame.number for a in sink.answers if a.frame.source == maker.name]
        assert numbers == list(range(count))
    assert summary.counts.answered == 210


def test_a_batch_holds_what_came_before_its_deadline():
    batches = []

    class Watched(FakeSession):
        def _run(self, feeds):
            batches.append(len(feeds["images"]))
            return super()._run(feeds)

    clock = ScriptedClock()
    with clock.passing():
        run_loop(
            [scripted_maker(range(64), clock, is_live=False)],
            clock,
            session=Watched(SPEC),
            batch_size=8,
            deadline_ms=1000,
        )
    assert sum(batches) == 64
    assert max(batches) <= 8
    assert max(batches) > 1


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


def test_the_stamps_are_in_order_and_tell_whose_clock():
    clock, sink = ScriptedClock(), Recorder()
    summary = run_loop([scripted_maker(range(20), clock, is_live=False)], clock, [sink])
    for answer in sink.answers:
        assert min(answer.frame.stamps.stage_ms().values()) >= 0
    assert summary.clocks == ("driver",)
    assert summary.latency_ms.count == 20
    assert summary.latency_ms.p99 is None  # of 20 frames nobody can tell


def test_post_processing_is_done_in_order():
    clock, sink = ScriptedClock(), Recorder()

    def doubt(answer):
        return dataclasses.replace(answer, is_confident=False)

    def smooth(answer):
        assert not answer.is_confident
        return dataclasses.replace(answer, smoothed=answer.prediction)

    loop = CameraLoop(
        [scripted_maker(range(5), clock, is_live=False)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        steps=[doubt, smooth],
        clock=clock,
    )
    loop.run()
    assert all(answer.smoothed is answer.prediction for answer in sink.answers)
    assert len(sink.answers) == 5


def test_a_sink_that_cannot_open_ends_the_loop_before_the_first_frame():
    class Closed(Recorder):
        def open(self, summarize):
            raise SpecError("port 80 is not ours")

    clock = ScriptedClock()
    with pytest.raises(SpecError, match="port 80"):
        run_loop([scripted_maker(range(5), clock, is_live=False)], clock, [Closed()])


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"top": 0}, {"deadline_ms": -1}, {"answer_timeout_s": -1}]
)
def test_refuses_impossible_options(options):
    with pytest.raises(SpecError, match=f"{next(iter(options))}: got"):
        LoopOptions(**options)


def test_needs_a_source():
    with pytest.raises(SpecError, match="sources: got none"):
        CameraLoop([], FakeSession(SPEC), SPEC)


def test_stopping_is_no_hang_though_a_file_waits_for_a_slow_sink():
    clock, sink, release = ScriptedClock(), Recorder(), threading.Event()
    began = threading.Event()

    def write(answer):
        began.set()
        release.wait(0.4)

    sink.write = write
    loop = CameraLoop(
        [scripted_maker(range(10**6), clock, is_live=False)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(answer_timeout_s=0),
        clock=clock,
    )
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert began.wait(30)
    loop.stop()
    thread.join(30)
    release.set()
    assert loop._stages.join(0)
    counts = loop.summary().counts
    assert counts.captured == counts.answered + counts.dropped


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
        run_loop(makers, clock, answer_timeout_s=0)


def test_a_file_that_cannot_be_opened_keeps_no_other_from_being_answered():
    clock, sink = ScriptedClock(), Recorder()
    bad = unopened("b.mp4", SourceError("b.mp4 cannot be opened"), clock, is_live=False)
    makers = [scripted_maker(range(50), clock, is_live=False), bad]
    with pytest.raises(SourceError, match=r"b\.mp4 cannot be opened"):
        run_loop(makers, clock, [sink])
    assert sink.numbers == list(range(50))


def test_sources_of_one_address_have_names_that_differ():
    clock, sink = ScriptedClock(), Recorder()
    makers = [scripted_maker(range(3), clock, is_live=False) for _ in range(2)]
    summary = run_loop(makers, clock, [sink])
    name = makers[0].name
    assert [source.name for source in summary.sources] == [name, f"{name} (2)"]


def test_a_file_whose_answers_a_sink_lost_is_no_success():
    clock, sink = ScriptedClock(), Recorder(fails_on=lambda number: number == 1)
    with pytest.raises(ArtifactError, match=r"1 of 3 answers failed, the last: "):
        run_loop([scripted_maker(range(3), clock, is_live=False)], clock, [sink])
