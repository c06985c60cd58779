"""A model of clips in the camera loop: which frames make a clip, when one is predicted, counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, scripted_maker, tiny_spec
from camera.scripted_loops import NEVER_SILENT, stop_after

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.stages import ClipRing, LoopOptions
from edge_vit.camera.summary import summary_lines
from edge_vit.camera.values import Frame, Stamps
from edge_vit.errors import SourceError, SpecError
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import ClipSpec, image_input

CLIP = ClipSpec(3, 2)
BLACK = np.zeros((4, 4, 3), np.uint8)


def spec_of(clip=CLIP):
    still = tiny_spec()
    preprocess = dataclasses.replace(still.preprocess, clip=clip)
    inputs = (image_input(preprocess.image_size, clip=clip),)
    return dataclasses.replace(still, inputs=inputs, preprocess=preprocess)


class Watching(FakeSession):
    """A session that keeps the gray of each frame of each clip that it is given."""

    remark = "It computes in bfloat16."

    def __init__(self, spec, delay_ms=0.0):
        super().__init__(spec, delay_ms=delay_ms)
        self.seen = []

    def _run(self, feeds):
        self.seen += feeds["images"].mean(axis=(2, 3, 4)).astype(int).tolist()
        return super()._run(feeds)


def run(events, *, clip=CLIP, is_live=False, count=None, delay_ms=0.0, **options):
    clock, sink, spec = ScriptedClock(), Recorder(), spec_of(clip)
    session = Watching(spec, delay_ms)
    loop = CameraLoop(
        [scripted_maker(events, clock, is_live=is_live)],
        session,
        spec,
        sinks=[sink],
        options=LoopOptions(prediction_timeout_s=0, retry=NEVER_SILENT, **options),
        clock=clock,
    )
    if count is not None:
        stop_after(loop, sink, count)
    return loop.run(), sink.numbers, session.seen


def test_a_clip_ends_with_each_frame_that_the_stride_takes():
    summary, numbers, seen = run(range(11))
    assert numbers == [4, 6, 8, 10]
    assert seen == [[0, 2, 4], [2, 4, 6], [4, 6, 8], [6, 8, 10]]
    counts = summary.counts
    assert (counts.captured, counts.answered, counts.gathered) == (11, 4, 7)
    assert counts.dropped == counts.failed == counts.in_flight == 0
    assert "4 of 11 frames answered" in summary_lines(summary)[0]
    assert summary_lines(summary)[0].endswith("; 7 more are part of clips")
    assert "It computes in bfloat16." in summary_lines(summary)


def test_predictions_may_be_wanted_less_often():
    assert run(range(20), every=5)[1] == [4, 10, 16]
    assert run(range(6), clip=ClipSpec(2), every=1)[1] == [1, 2, 3, 4, 5]


def test_of_a_live_source_each_frame_has_its_place_in_the_counts():
    summary, numbers, seen = run(range(10**9), is_live=True, count=20, delay_ms=2)
    counts = summary.counts
    assert counts.captured == counts.answered + counts.dropped + counts.gathered
    assert counts.answered == len(seen) >= 20
    assert all(number % 2 == 0 for number in numbers)


def test_a_video_that_is_shorter_than_a_clip_is_refused():
    with pytest.raises(SourceError, match="script: it has 4 frames, and the first clip takes 5"):
        run(range(4))


def frame(number, seconds=None, *, is_live=True):
    captured_ns = round(1e9 * (number / 30 if seconds is None else seconds))
    return Frame(number, "cam", BLACK, Stamps(captured_ns, captured_ns), is_live)


def add(ring, number, seconds=None, *, is_live=True):
    found = ring.add(frame(number, seconds, is_live=is_live), BLACK + number % 251)
    return None if found is None else found[:, 0, 0, 0].tolist()


def test_the_frame_before_stands_for_those_that_were_dropped():
    ring = ClipRing(ClipSpec(4, 2))
    assert [add(ring, number) for number in (0, 2, 8)] == [None, None, [2, 2, 2, 8]]
    assert add(ring, 100) == [8, 8, 8, 100]


def test_a_source_that_was_lost_begins_a_new_clip():
    ring = ClipRing(ClipSpec(3))
    assert [add(ring, number) for number in range(3)] == [None, None, [0, 1, 2]]
    after = [add(ring, 3 + number, 60 + number / 30) for number in range(3)]
    assert after == [None, None, [3, 4, 5]]
    slow = ClipRing(ClipSpec(3))  # one frame every five seconds is no loss
    assert [add(slow, number, 5 * number) for number in range(3)] == [None, None, [0, 1, 2]]
    file = ClipRing(ClipSpec(3))
    assert [add(file, n, n**9, is_live=False) for n in range(3)] == [None, None, [0, 1, 2]]


def test_every_is_a_number_of_frames():
    with pytest.raises(SpecError, match="every: got 0, expected at least 1"):
        LoopOptions(every=0)
