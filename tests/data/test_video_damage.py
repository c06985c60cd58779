"""One reader for files as images and for cameras: trimmed, raw, cut and damaged videos."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")
from camera.damaged_videos import DAMAGED, INTACT, cut_off, encode, spoil
from camera.scripted import Recorder, tiny_spec
from camera.videos import level_of, read_level

from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.address import source_maker
from edge_vit.data.video import VideoSource
from edge_vit.errors import ImageError, SourceError
from edge_vit.runtime.fake import FakeSession

SPEC = tiny_spec()


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Return each clip's path, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def path_of(clip):
        if clip.name not in made:
            made[clip.name] = folder / clip.name
            clip.make(made[clip.name])
        return made[clip.name]

    return path_of


def by_name(clips):
    return pytest.mark.parametrize("clip", clips, ids=[clip.name for clip in clips])


def run_camera(path):
    """Return the loop and the sink of a camera loop over the file, and the error that ended it."""
    sink = Recorder()
    loop = CameraLoop([source_maker(str(path))], FakeSession(SPEC), SPEC, sinks=[sink])
    try:
        loop.run()
    except SourceError as error:
        return loop, sink, error
    return loop, sink, None


def assert_levels(pictures, numbers):
    levels = [read_level(pixels) for pixels in pictures]
    np.testing.assert_allclose(levels, [level_of(number) for number in numbers], atol=8)


@by_name(INTACT)
def test_what_can_be_decoded_is_used_and_nothing_is_missed(clip, clips):
    source = VideoSource(clips(clip))
    items = list(source)
    assert len(source) == len(items) == clip.total
    assert_levels([item.pixels for item in items], clip.shown)
    assert source.notes == ()
    loop, sink, error = run_camera(clips(clip))
    assert error is None
    assert_levels([p.frame.pixels for p in sink.predictions], clip.shown)
    assert loop.summary().counts.captured == clip.total


@by_name(INTACT)
def test_few_frames_of_any_clip_are_spread_evenly(clip, clips):
    items = list(VideoSource(clips(clip), 4))
    places = [index * clip.total // 4 for index in range(4)]
    assert [item.name for item in items] == [f"{clips(clip)}#{place}" for place in places]
    assert_levels([item.pixels for item in items], [clip.shown[place] for place in places])


@by_name(DAMAGED)
def test_bad_frames_are_left_out_and_counted_by_both_readers(clip, clips):
    source = VideoSource(clips(clip))
    items, counts = list(source), source.counts
    assert 0 < counts.good == len(items) == len(source) < clip.total
    assert counts.is_cut_off or counts.good + counts.left_out == clip.total
    assert source.notes == (f"video {clips(clip)}: {counts}",)
    if clip.shown is not None:
        assert_levels([item.pixels for item in items], clip.shown)

    loop, sink, error = run_camera(clips(clip))
    assert [a.frame.pixels.tobytes() for a in sink.predictions] == [
        i.pixels.tobytes() for i in items
    ]
    summary = loop.summary()
    assert summary.counts.answered == counts.good
    assert summary.counts.failed == counts.corrupt + counts.undecodable
    assert error.exit_status == 1
    if counts.missing or counts.is_cut_off:
        assert f"is cut off: {counts}" in str(error)
    else:
        assert re.search(rf"{counts.left_out} of {clip.total} frames have no answer", str(error))


@by_name(DAMAGED)
def test_few_frames_of_a_damaged_clip_are_good_ones(clip, clips):
    whole = {item.name: item.pixels.tobytes() for item in VideoSource(clips(clip))}
    source = VideoSource(clips(clip), 6)
    items = list(source)
    assert len(items) == len(source) == len({item.name for item in items}) > 0
    assert all(item.pixels.tobytes() == whole[item.name] for item in items)
    assert [item.name for item in items] == [item.name for item in VideoSource(clips(clip), 6)]


def test_frames_that_build_on_a_bad_one_are_said_to(clips):
    (clip,) = (clip for clip in DAMAGED if clip.name == "concealed.mp4")
    counts = VideoSource(clips(clip)).counts
    assert 0 < counts.traced < 20  # up to the next key frame
    assert f"{counts.traced} that follow a bad one may show traces of it" in str(counts)


@pytest.mark.parametrize("share", [0.4, 0.73])
@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.y4m", "rawvideo")])
def test_a_stream_that_ends_in_a_packet_is_cut_off(tmp_path, name, codec, share):
    path = tmp_path / name
    assert VideoSource(encode(path, codec), 3).notes == ()
    cut_off(path, share, codec)
    source = VideoSource(path)
    assert len(source) == source.counts.good > 5
    assert "the file ends in the middle of a packet, as it was cut off" in source.notes[0]
    _, sink, error = run_camera(path)
    assert len(sink.predictions) == len(source)
    assert error.exit_status == 1
    assert "is cut off" in str(error)


def test_a_video_without_one_good_frame_is_refused_with_the_count(tmp_path):
    path = encode(tmp_path / "a.avi", "mjpeg")
    spoil(path, range(40), keep=0)
    with pytest.raises(ImageError, match=r"holds no frame that can be decoded: 0 of 40 frames"):
        VideoSource(path)
    with pytest.raises(SourceError, match=r"holds no frame that can be decoded: 0 of 40 frames"):
        source_maker(str(path)).make().open()
