"""V4L2: the driver's stamps by hand, and a real loopback device where the kernel has one."""

from __future__ import annotations

import shutil
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from camera.scripted import ScriptedClock

from edge_vit.camera.sources.address import parse_address, source_maker
from edge_vit.camera.sources.stream import StreamSource

av = pytest.importorskip("av", reason="PyAV is not installed")
SECOND = 10**9


@pytest.mark.parametrize(
    ("age_s", "clock"), [(0.02, "driver"), (-1, "arrival"), (60, "arrival"), (1.7e9, "arrival")]
)
def test_the_drivers_stamp_counts_where_it_is_of_our_clock(age_s, clock):
    now = ScriptedClock(start_ns=5_000_000 * SECOND)
    source = StreamSource(parse_address("0"), 5, now)
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")
    frame.time_base = Fraction(1, 1_000_000)
    frame.pts = round((now.now_ns() / SECOND - age_s) * 1e6)
    capture = source._to_capture(frame, now.now_ns())
    assert capture.clock == clock
    expected_s = age_s if clock == "driver" else 0
    assert (now.now_ns() - capture.captured_ns) / SECOND == pytest.approx(expected_s, abs=1e-5)


def loopback_device() -> str | None:
    """Return a v4l2loopback device of this kernel, if there is one."""
    for entry in sorted(Path("/sys/devices/virtual/video4linux").glob("video*")):
        return f"/dev/{entry.name}"
    return None


@pytest.mark.skipif(loopback_device() is None, reason="this kernel has no v4l2loopback device")
@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is missing")
def test_reads_a_loopback_device():
    device = loopback_device()
    feeder = subprocess.Popen(
        [
            *("gst-launch-1.0", "-q", "videotestsrc", "is-live=true", "!"),
            *("video/x-raw,format=YUY2,width=320,height=240,framerate=30/1", "!", "v4l2sink"),
            f"device={device}",
        ]
    )
    try:
        time.sleep(2)
        source = source_maker(f"v4l2://{device}").make()
        given = source.open()
        frames = [source.read() for _ in range(5)]
        source.close()
    finally:
        feeder.kill()
        feeder.wait()
    assert (given.width, given.height) == (320, 240)
    assert {frame.pixels.shape for frame in frames} == {(240, 320, 3)}
