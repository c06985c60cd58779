"""The production loop and its threads; only source, clock and session are replaced."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker
from camera.scripted_loops import SPEC, endless, live_loop, run_loop

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.stages import LoopOptions
from edge_vit.errors import (
    SpecError,
)
from edge_vit.runtime.fake import FakeSession


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
    for prediction in sink.predictions:
        assert prediction.frame.pixels[0, 0, 0] == prediction.frame.number % 251
        image = np.full((1, 8, 8, 3), prediction.frame.number % 251, np.uint8)
        np.testing.assert_array_equal(
            prediction.outputs["logits"][0], FakeSession(SPEC).run({"images": image})["logits"][0]
        )


def test_a_live_source_loses_old_frames_and_counts_them():
    sink = Recorder()
    sink.queue_size = 10**6  # it loses none itself
    summary = live_loop(endless(), sink, 50, session=FakeSession(SPEC, delay_ms=2))
    counts = summary.counts
    assert counts.dropped > 0
    assert counts.captured == counts.answered + counts.dropped + counts.failed
    assert sink.numbers == sorted(set(sink.numbers))
    missing = np.cumsum(np.diff([-1, *sink.numbers]) - 1)
    reported = np.cumsum([prediction.num_dropped for prediction in sink.predictions])
    assert (reported >= missing - 1).all()  # the last one may just be on its way to the counts
    assert 0 < missing[-1] <= counts.dropped
    assert 0 < reported[-1] <= counts.dropped


def test_several_sources_share_one_engine_fairly():
    clock, sink = ScriptedClock(), Recorder()
    makers = [
        scripted_maker(range(count), clock, name=f"file{count}", is_live=False)
        for count in (50, 70, 90)
    ]
    with clock.passing():
        summary = run_loop(makers, clock, [sink], batch_size=3, deadline_ms=1)
    for maker, count in zip(makers, (50, 70, 90), strict=True):
        numbers = [a.frame.number for a in sink.predictions if a.frame.source == maker.name]
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


def test_the_stamps_are_in_order_and_tell_whose_clock():
    clock, sink = ScriptedClock(), Recorder()
    summary = run_loop([scripted_maker(range(20), clock, is_live=False)], clock, [sink])
    for prediction in sink.predictions:
        assert min(prediction.frame.stamps.stage_ms().values()) >= 0
    assert summary.clocks == ("driver",)
    assert summary.latency_ms.count == 20
    assert summary.latency_ms.p99 is None  # of 20 frames nobody can tell


def test_post_processing_is_done_in_order():
    clock, sink = ScriptedClock(), Recorder()

    def doubt(prediction):
        return dataclasses.replace(prediction, is_confident=False)

    def smooth(prediction):
        assert not prediction.is_confident
        return dataclasses.replace(prediction, smoothed=prediction.raw)

    loop = CameraLoop(
        [scripted_maker(range(5), clock, is_live=False)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        steps=[doubt, smooth],
        clock=clock,
    )
    loop.run()
    assert all(prediction.smoothed is prediction.raw for prediction in sink.predictions)
    assert len(sink.predictions) == 5


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"top": 0}, {"deadline_ms": -1}, {"prediction_timeout_s": -1}]
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

    def write(prediction):
        began.set()
        release.wait(0.4)

    sink.write = write
    loop = CameraLoop(
        [scripted_maker(range(10**6), clock, is_live=False)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(prediction_timeout_s=0),
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


def test_sources_of_one_address_have_names_that_differ():
    clock, sink = ScriptedClock(), Recorder()
    makers = [scripted_maker(range(3), clock, is_live=False) for _ in range(2)]
    summary = run_loop(makers, clock, [sink])
    name = makers[0].name
    assert [source.name for source in summary.sources] == [name, f"{name} (2)"]
