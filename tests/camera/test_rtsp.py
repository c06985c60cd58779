"""A real RTSP stream from a real server on the loopback, and what happens when it goes away."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest
from camera.scripted import Recorder, tiny_spec

from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.address import source_maker
from edge_vit.camera.stages import LoopOptions
from edge_vit.errors import SourceError
from edge_vit.runtime.fake import FakeSession

pytest.importorskip("av", reason="PyAV is not installed")
SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
SPEC = tiny_spec()


class Server:
    """The server as a process that can be killed and started again on its port."""

    def __init__(self, codec: str, port: str = "0") -> None:
        self.codec = codec
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, str(SERVER), codec, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = self.process.stdout.readline().strip()

    @property
    def address(self) -> str:
        return f"rtsp://somebody:secret@127.0.0.1:{self.port}/cam"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(params=["h264", "mjpeg"])
def server(request):
    try:
        server = Server(request.param)
    except FileNotFoundError:
        pytest.skip(f"{SYSTEM_PYTHON} is not there to run GStreamer's RTSP server")
    if not server.port:
        server.kill()
        pytest.skip("the system's Python has no GStreamer RTSP server (gir1.2-gst-rtsp-server-1.0)")
    yield server
    server.kill()


def test_reads_a_stream(server):
    maker = source_maker(server.address)
    assert maker.is_live
    assert maker.name == f"rtsp://127.0.0.1:{server.port}/cam"
    source = maker.make()
    given = source.open()
    try:
        frames = [source.read() for _ in range(10)]  # none is lost by joining between key frames
    finally:
        source.close()
    assert (given.width, given.height) == (160, 120)
    assert given.clock == "arrival"
    assert {frame.pixels.shape for frame in frames} == {(120, 160, 3)}
    stamps = [frame.captured_ns for frame in frames]
    assert stamps == sorted(stamps)
    assert stamps[-1] <= time.monotonic_ns()


def test_recovers_when_the_server_was_killed_in_mid_stream(server):
    sink = Recorder()
    loop = CameraLoop(
        [source_maker(server.address, timeout_s=10)],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(
            retry=RetryPolicy(stale_after_s=10, first_retry_s=0.1, max_retry_s=0.5)
        ),
    )
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        wait_until(lambda: len(sink.predictions) >= 5)
        server.kill()
        wait_until(lambda: loop.summary().sources[0].state in ("waiting", "opening"))
        captured = loop.summary().counts.captured
        time.sleep(0.3)
        assert loop.summary().counts.captured == captured  # nothing stands in for a frame
        before = len(sink.predictions)
        server.process = Server(server.codec, server.port).process
        wait_until(lambda: len(sink.predictions) >= before + 5)
    finally:
        loop.stop()
        thread.join(30)
    (source,) = loop.summary().sources
    assert source.num_reopened >= 1
    assert "secret" not in source.last_error
    assert sink.numbers == sorted(set(sink.numbers))
    counts = source.counts
    assert counts.captured == counts.answered + counts.dropped + counts.failed


def test_tells_what_is_wrong_without_the_password(server):
    with pytest.raises(SourceError) as caught:
        source_maker(server.address.replace("/cam", "/elsewhere"), timeout_s=30).make().open()
    assert str(caught.value) == (
        f"source rtsp://127.0.0.1:{server.port}/elsewhere cannot be opened: "
        "Server returned 404 Not Found"
    )


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
