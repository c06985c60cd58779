"""A network camera that gives JPEG frames over HTTP, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import http.server
import io
import socket
import threading
import time

import pytest
from camera.scripted import Recorder
from camera.scripted_loops import SPEC, unhurried

pytest.importorskip("av", reason="PyAV is not installed")
import av
from camera.damaged_videos import remux
from camera.videos import level_of, picture, read_level
from PIL import Image

from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.address import source_maker
from edge_vit.camera.stages import LoopOptions
from edge_vit.errors import SourceError
from edge_vit.runtime.fake import FakeSession

_COUNT = 90  # frames of one connection; then the camera hangs up


def jpeg(number):
    data = io.BytesIO()
    Image.fromarray(picture(number)).save(data, "JPEG", quality=95)
    return data.getvalue()


class Camera(http.server.ThreadingHTTPServer):
    """Sends the frames of `frames_of(connection)`, counted from 0, one after the other."""

    daemon_threads = True

    def __init__(self, frames_of):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.frames_of, self.num_connections = frames_of, 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"http://user:secret@127.0.0.1:{self.server_port}/video"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        connection = self.server.num_connections
        self.server.num_connections += 1
        self.send_response(200)
        frames = self.server.frames_of(connection)
        if isinstance(frames, bytes):
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(frames)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for data in frames:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.005)
        except OSError:
            pass  # the reader has left

    def log_message(self, format, *arguments):
        """Log nothing."""


@pytest.fixture
def camera():
    """Return a function that starts a camera; all are stopped at the end."""
    cameras = []

    def start(frames_of):
        cameras.append(Camera(frames_of))
        return cameras[-1]

    yield start
    for each in cameras:
        each.shutdown()
        each.server_close()


FRAMES = [jpeg(number) for number in range(_COUNT)]
BROKEN = bytes(200)


def run_until(camera, condition):
    """Run a loop on the camera until `condition(sink)`; return its summary and its sink."""
    sink = Recorder()
    loop = CameraLoop(
        [source_maker(camera.address, timeout_s=60)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(
            prediction_timeout_s=0,
            retry=RetryPolicy(
                stale_after_s=60, open_timeout_s=60, first_retry_s=0.01, max_retry_s=0.1
            ),
        ),
    )
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 120
    while not condition(sink) and time.monotonic() < deadline:
        time.sleep(0.01)
    is_reached = condition(sink)
    with unhurried():
        loop.stop()
        thread.join(120)
    assert is_reached and not thread.is_alive()
    return loop.summary(), sink


def test_frames_come_and_after_the_camera_hung_up_they_come_again(camera, caplog):
    source = camera(lambda connection: FRAMES)
    summary, sink = run_until(source, lambda sink: source.num_connections >= 3 and sink.predictions)
    levels = {round(read_level(prediction.frame.pixels)) for prediction in sink.predictions}
    known = [level_of(number) for number in range(_COUNT)]
    assert all(min(abs(level - other) for other in known) <= 3 for level in levels)
    assert summary.sources[0].num_reopened >= 1
    assert "secret" not in caplog.text + str(summary)


@pytest.mark.parametrize("num_broken", [1, 5])
def test_a_broken_first_frame_is_left_out_and_the_next_has_predicted(camera, num_broken):
    source = camera(lambda connection: [BROKEN] * num_broken + FRAMES)
    summary, sink = run_until(source, lambda sink: len(sink.predictions) >= 5)
    assert sink.predictions
    assert summary.counts.captured == (
        summary.counts.answered + summary.counts.dropped + summary.counts.failed
    )


def test_a_camera_that_gives_rubbish_at_first_is_tried_again(camera):
    source = camera(lambda connection: FRAMES if connection >= 2 else [BROKEN] * 150)
    summary, sink = run_until(source, lambda sink: len(sink.predictions) >= 5)
    assert source.num_connections >= 3 and sink.predictions
    assert summary.sources[0].last_error


def long_group(path, codec, options, count=260, drop=5):
    """Return a transport stream that begins behind a key frame, `count` frames before the next."""
    whole = path.with_name("whole.ts")
    with av.open(str(whole), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(count + 30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    remux(whole, path, drop=range(drop))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "260", "sc_threshold": "0", "bf": "2"}),
        ("mpeg2video", {"g": "260", "sc_threshold": "1000000000"}),
    ],
)
def test_a_stream_that_is_joined_in_a_long_group_waits_for_its_key_frame(
    camera, tmp_path, codec, options
):
    data = long_group(tmp_path / "a.ts", codec, options)
    source = camera(lambda connection: data if connection < 2 else b"")
    summary, _ = run_until(source, lambda sink: len(sink.predictions) >= 1)
    assert summary.counts.failed < 10  # the 250 before the key frame were lost before it joined


def test_nobody_there_may_come_later():
    with pytest.raises(SourceError, match=r"source http://127\.0\.0\.1:9/x cannot be opened: "):
        source_maker("http://me:secret@127.0.0.1:9/x", timeout_s=1).make().open()


def test_a_camera_that_accepts_and_says_nothing_is_explained():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SourceError, match=r"cannot be opened: nothing came for 0\.5 s$"):
            source_maker(f"http://127.0.0.1:{port}/x", timeout_s=0.5).make().open()
