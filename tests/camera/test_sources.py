"""Sources of this machine: pattern, folder, video files, and a GStreamer child process."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, tiny_spec
from PIL import Image

from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.address import parse_address, source_maker
from edge_vit.camera.sources.gstreamer import pipeline_of
from edge_vit.camera.sources.simple import PatternSource
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.stages import LoopOptions
from edge_vit.errors import ImageError, MissingDependencyError, SourceError, SpecError
from edge_vit.runtime.fake import FakeSession

SPEC = tiny_spec()
INSPECT = shutil.which("gst-inspect-1.0")
needs_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None
    or INSPECT is None
    or subprocess.run([INSPECT, "gdppay"], capture_output=True).returncode != 0,
    reason="gst-launch-1.0 with gdppay is not installed",
)
LIVE = "gst:videotestsrc is-live=true ! video/x-raw,width=66,height=48,framerate=30/1"


def read_all(source):
    source.open()
    frames = []
    try:
        while (frame := source.read()) is not None:
            frames.append(frame)
    finally:
        source.close()
    return frames


def test_the_pattern_moves_at_its_rate():
    clock = ScriptedClock()
    source = PatternSource(parse_address("test://#width=40,height=30,rate=10,count=5"), clock=clock)
    with clock.passing():
        frames = read_all(source)
    assert {frame.pixels.shape for frame in frames} == {(30, 40, 3)}
    assert len({frame.pixels.tobytes() for frame in frames}) == 5
    assert np.diff([frame.captured_ns for frame in frames]).tolist() == [10**8] * 4


def test_waiting_for_the_pattern_can_be_ended():
    source = PatternSource(parse_address("test://#rate=1"), clock=ScriptedClock())
    source.open()
    source.read()
    threading.Timer(0.05, source.abort).start()
    with pytest.raises(SourceError, match="closed"):
        source.read()


def test_a_folder_gives_every_image_in_order_and_names_the_damaged_one(tmp_path):
    for number in range(4):
        Image.new("RGB", (9 + number, 7), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    source = source_maker(str(tmp_path)).make()
    source.open()
    assert [source.read().pixels.shape[1] for _ in range(2)] == [9, 10]
    with pytest.raises(ImageError, match=r"2\.png"):
        source.read()
    assert source.read().pixels[0, 0, 0] == 3
    assert source.read() is None


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ImageError, match="holds no images"):
        source_maker(str(tmp_path)).make().open()


class TestVideo:
    """Files that PyAV makes and reads: H.264 with reordered frames, and MJPEG."""

    @pytest.fixture(params=["h264.mp4", "mjpeg.avi"])
    def video(self, request, tmp_path):
        pytest.importorskip("av", reason="PyAV is not installed")
        from camera.videos import write_video

        return write_video(tmp_path / request.param)

    def test_every_frame_comes_in_the_order_in_which_it_is_shown(self, video):
        from camera.videos import level_of, read_level

        sink = Recorder()
        loop = CameraLoop([source_maker(str(video))], FakeSession(SPEC), SPEC, sinks=[sink])
        summary = loop.run()
        levels = [read_level(prediction.frame.pixels) for prediction in sink.predictions]
        np.testing.assert_allclose(levels, [level_of(n) for n in range(60)], atol=3)
        assert (summary.counts.captured, summary.counts.answered) == (60, 60)
        assert summary.sources[0].format.rate == 30
        assert "BT.601" in summary.sources[0].format.colour

    def test_a_truncated_file_gives_what_it_holds_or_is_refused(self, video):
        data = video.read_bytes()
        video.write_bytes(data[: len(data) // 2])
        sink = Recorder()
        loop = CameraLoop([source_maker(str(video))], FakeSession(SPEC), SPEC, sinks=[sink])
        if video.suffix == ".mp4":  # its index was at the end
            with pytest.raises(
                SourceError, match=r"cannot be opened: it is damaged, was cut off before"
            ):
                loop.run()
            return
        with contextlib.suppress(SourceError):
            loop.run()
        assert 10 < len(sink.predictions) < 60
        assert sink.numbers == sorted(sink.numbers)

    def test_a_file_without_video_is_refused(self, video):
        video.write_bytes(b"not a video at all" * 100)
        with pytest.raises(SourceError, match=r"cannot be opened: it is damaged, .* no video"):
            source_maker(str(video)).make().open()


@needs_gstreamer
class TestGStreamer:
    """A real child process."""

    def test_frames_come_with_the_stamps_of_the_pipeline(self):
        source = source_maker(LIVE).make()
        given = source.open()
        try:
            frames = [source.read() for _ in range(5)]
        finally:
            source.close()
        assert (given.width, given.height, given.rate) == (66, 48, 30)
        assert {frame.pixels.shape for frame in frames} == {(48, 66, 3)}  # rows are padded to 200
        assert {frame.clock for frame in frames} == {"driver"}
        steps = np.diff([f.captured_ns for f in frames]) * 30 / 1e9  # more where one was late
        np.testing.assert_allclose(steps, np.maximum(np.round(steps), 1), atol=0.03)
        assert 0 <= time.monotonic_ns() - frames[-1].captured_ns < 60 * 10**9

    def test_colours_are_right(self):
        source = source_maker(
            "gst:videotestsrc is-live=true pattern=red ! video/x-raw,format=I420,width=64,height=48"
        ).make()
        source.open()
        try:
            mean = source.read().pixels.mean(axis=(0, 1))
        finally:
            source.close()
        np.testing.assert_allclose(mean, (255, 0, 0), atol=4)

    def test_a_child_that_stands_still_is_killed_and_another_one_started(self):
        sink, children = Recorder(), []
        maker = source_maker(LIVE)

        def make():
            children.append(maker.make())
            return children[-1]

        loop = CameraLoop(
            [SourceMaker("camera", True, make)],
            FakeSession(SPEC),
            SPEC,
            sinks=[sink],
            options=LoopOptions(retry=RetryPolicy(stale_after_s=2, first_retry_s=0.05)),
        )
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            wait_until(lambda: len(sink.predictions) >= 5)
            children[0]._process.send_signal(signal.SIGSTOP)  # like a camera stack that hangs
            before = len(sink.predictions)
            wait_until(lambda: len(children) >= 2 and len(sink.predictions) >= before + 10)
        finally:
            loop.stop()
            thread.join(30)
        assert children[0]._process.poll() is not None
        assert loop.summary().sources[0].num_reopened >= 1

    def test_aborting_kills_the_child(self):
        source = source_maker(LIVE).make()
        source.open()
        process = source._process
        threading.Timer(0.1, source.abort).start()
        with pytest.raises(SourceError, match="closed"):
            while True:
                source.read()
        source.close()
        assert process.poll() is not None

    @pytest.mark.parametrize(
        ("pipeline", "error", "message"),
        [
            ("nosuchelement", SpecError, 'no element "nosuchelement"'),
            ("videotestsrc ! ! x", SpecError, "syntax error"),
            ("audiotestsrc", SpecError, "could not link"),
            ("videotestsrc num-buffers=0", SourceError, "ended before its first frame"),
            ("filesrc location=/nowhere ! decodebin", SourceError, "ERROR"),
        ],
    )
    def test_a_pipeline_that_cannot_run_says_why(self, pipeline, error, message):
        source = source_maker(f"gst:{pipeline}").make()
        try:
            with pytest.raises(error) as caught:
                source.open()
        finally:
            source.close()
        assert message in str(caught.value)


def test_a_csi_camera_is_read_through_argus():
    text = pipeline_of(parse_address("csi://1#width=1920,height=1080,rate=60"))
    assert text == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,"
        "framerate=60/1 ! nvvidconv ! video/x-raw,format=BGRx"
    )


def test_names_the_packages_that_gstreamer_needs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"sudo apt install gstreamer1\.0-tools"):
        source_maker("csi://0").make().open()


def test_a_camera_that_is_not_there_may_come_later():
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(SourceError, match="v4l2:///dev/video63 cannot be opened: No such file"):
        source_maker("63").make().open()


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
