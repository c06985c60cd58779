"""CSI cameras and any GStreamer pipeline, in a child process: what hangs there is killed.

``gst-launch-1.0`` runs the pipeline; ``gdppay`` writes its frames with their timestamps to a pipe,
as the GStreamer Data Protocol 1.0: a header of 62 bytes, numbers big-endian, then the payload (see
gst/gdp/dataprotocol.c of the GStreamer sources).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np

from edge_vit.camera.sources.address import SourceAddress
from edge_vit.camera.sources.source import PLAUSIBLE_NS, Capture, FrameSource
from edge_vit.camera.threads import Clock, describe, start_thread
from edge_vit.camera.values import CaptureClock, SourceFormat
from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import MissingDependencyError, SourceError, SpecError

_LAUNCHER = "gst-launch-1.0"
_LISTENER_END_S = 1.0  # something that outlives the child may hold its stderr
_PIPE_BYTES = 2**20  # what Linux grants everybody
# Behind every pipeline: RGB, and of frames that wait the newest alone.
_TAIL = (
    "! videoconvert ! video/x-raw,format=RGB "
    "! queue max-size-buffers=1 max-size-bytes=0 max-size-time=0 leaky=downstream "
    "! gdppay ! fdsink fd=1 sync=false"
)
# The instant that the timestamps count from, on the monotonic clock.
_BASE_TIME = re.compile(r"now=\S+ base_time (\d+):(\d\d):(\d\d)\.(\d{9})")
_WRONG = ("no element", "could not parse", "syntax error", "could not link", "no property")

_HEADER_SIZE = 62
_HEADER = struct.Struct(">BBBxHIQ")  # version, flags, padding, type, length, timestamp
_BUFFER, _CAPS = 1, 2
_NO_TIME = 2**64 - 1
_MAX_PAYLOAD = 512 * 2**20


@dataclass(frozen=True)
class Caps:
    """The format of raw frames: size in pixels, frames a second (0 where the rate varies)."""

    width: int
    height: int
    rate: float

    @property
    def stride(self) -> int:
        """Bytes of one row of RGB: GStreamer rounds them up to a multiple of 4."""
        return (self.width * 3 + 3) // 4 * 4


@dataclass(frozen=True, eq=False)
class GdpBuffer:
    """A payload, and its presentation time since the pipeline began, None if it has none."""

    data: bytearray
    time_ns: int | None


class GStreamerSource(FrameSource):
    """Frames of a pipeline that a child process runs."""

    def __init__(self, address: SourceAddress, timeout_s: float, clock: Clock) -> None:
        self._name, self._clock = address.name, clock
        self._command = [_LAUNCHER, "-q", *shlex.split(f"{pipeline_of(address)} {_TAIL}")]
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_aborted = False
        self._messages: deque[str] = deque(maxlen=20)
        self._base_ns: int | None = None
        self._caps: Caps | None = None
        self._first: Capture | None = None

    def open(self) -> SourceFormat:
        """Start the child, and wait for its first frame."""
        if shutil.which(_LAUNCHER) is None:
            raise MissingDependencyError(
                f"source {self._name} needs {_LAUNCHER}, which is not installed. Run: "
                "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good "
                "gstreamer1.0-plugins-bad"
            )
        with self._lock:
            if self._is_aborted:
                raise SourceError(f"source {self._name} was closed")
            self._process = process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "GST_DEBUG": "pipeline:5", "GST_DEBUG_NO_COLOR": "1"},
                start_new_session=True,  # Ctrl-C is for us, who then stop the child
            )
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            fcntl.fcntl(process.stdout, getattr(fcntl, "F_SETPIPE_SZ", 1031), _PIPE_BYTES)
        self._listener = start_thread(
            f"stderr of {self._name}",
            partial(self._listen, process),
            lambda error: self._messages.append(describe(error)),
        )
        self._first = self._read_frame()
        if self._first is None or self._caps is None:
            raise self._explain("ended before its first frame")
        caps = self._caps
        colour = "GStreamer's videoconvert, by the colorimetry of its caps"
        return SourceFormat(caps.width, caps.height, caps.rate, colour, self._first.clock)

    def read(self) -> Capture | None:
        """Return the next frame."""
        frame, self._first = self._first or self._read_frame(), None
        if frame is None:
            raise self._explain("ended")
        return frame

    def abort(self) -> None:
        """Kill the child; the pipe then ends."""
        with self._lock:
            self._is_aborted = True
            if self._process is not None:
                with contextlib.suppress(OSError):
                    if self._process.returncode is None:  # else its number may be another's
                        os.killpg(self._process.pid, signal.SIGKILL)  # and what it started

    def close(self) -> None:
        """Kill the child, and wait until it is gone."""
        self.abort()
        if self._process is not None:
            self._process.wait()
            self._listener.join(_LISTENER_END_S)
            pipes = [self._process.stdout]
            if not self._listener.is_alive():  # closing would wait for the reader
                pipes.append(self._process.stderr)
            for pipe in pipes:
                if pipe is not None:
                    pipe.close()

    def _read_frame(self) -> Capture | None:
        """The next frame; None when the child has ended."""
        assert self._process is not None and self._process.stdout is not None
        try:
            while packet := read_packet(self._process.stdout):  # type: ignore[arg-type]
                if isinstance(packet, Caps):
                    self._caps = packet
                    continue
                if self._caps is None:
                    raise SourceError("gdppay: got a frame before its format")
                return Capture(to_pixels(packet, self._caps), *self._stamp(packet.time_ns))
        except SourceError as error:
            raise self._explain(str(error)) from None
        return None

    def _stamp(self, time_ns: int | None) -> tuple[int, CaptureClock]:
        """When a frame of presentation time `time_ns` was captured, and by which clock."""
        now_ns = self._clock.now_ns()
        if time_ns is not None and self._base_ns is not None:
            captured_ns = self._base_ns + time_ns
            if 0 <= now_ns - captured_ns < PLAUSIBLE_NS:
                return captured_ns, "driver"
        return now_ns, "arrival"

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            text = line.decode("utf-8", "replace").strip()
            if found := _BASE_TIME.search(text):
                hours, minutes, seconds, nanos = map(int, found.groups())
                self._base_ns = ((hours * 60 + minutes) * 60 + seconds) * 10**9 + nanos
            elif text and " DEBUG " not in text and " INFO " not in text:
                self._messages.append(text)

    def _explain(self, what: str) -> SourceError | SpecError:
        """Why there are no more frames, with the child's own message."""
        if self._is_aborted:
            return SourceError(f"source {self._name} was closed")
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
                self._listener.join(1)
        errors = [line for line in self._messages if "ERROR" in line or "WARNING" in line]
        why = (errors or list(self._messages) or ["it said nothing"])[0]
        why = why.removeprefix("WARNING: ").removeprefix("erroneous pipeline: ")
        message = f"source {self._name} {what}: {why}"
        if "nvarguscamerasrc" in why or "nvvidconv" in why:
            message += ". CSI cameras are read on a Jetson, by the GStreamer plugins of its JetPack"
        is_wrong = any(word in why.lower() for word in _WRONG)
        return SpecError(message) if is_wrong else SourceError(message)


def pipeline_of(address: SourceAddress) -> str:
    """Return the pipeline of `address`, up to raw video in the CPU's memory."""
    if address.kind == "gst":
        return address.target
    # The sensor is reached through Argus alone; nvvidconv takes the frame out of the GPU's memory.
    width, height = address.number("width", 1280), address.number("height", 720)
    return (
        f"nvarguscamerasrc sensor-id={address.target} "
        f"! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={address.number('rate', 30)}/1 ! nvvidconv ! video/x-raw,format=BGRx"
    )


def read_packet(pipe: BinaryIO) -> GdpBuffer | Caps | None:
    """Return the next frame or format, waited for, events left out; None at the end."""
    while header := _read_exactly(pipe, _HEADER_SIZE):
        major, minor, _, kind, length, time_ns = _HEADER.unpack_from(header)
        if (major, minor) != (1, 0) or length > _MAX_PAYLOAD:
            raise SourceError("gdppay: got bytes that are not its protocol, version 1.0")
        payload = _read_exactly(pipe, length) if length else bytearray()
        if payload is None:
            raise SourceError("gdppay: broke off within a frame")
        if kind == _BUFFER:
            return GdpBuffer(payload, None if time_ns == _NO_TIME else time_ns)
        if kind == _CAPS:
            return parse_caps(payload.rstrip(b"\0").decode("utf-8", "replace"))
    return None


def parse_caps(text: str) -> Caps:
    """Return the format that `text`, such as ``video/x-raw, width=(int)640, ...``, describes."""
    fields = dict(re.findall(r"([\w-]+)=\(\w+\)([^,;\s]+)", text))
    rate, _, per = fields.get("framerate", "0/1").partition("/")
    try:
        if not text.startswith("video/x-raw") or fields["format"] != "RGB":
            raise ValueError
        return Caps(int(fields["width"]), int(fields["height"]), int(rate) / int(per))
    except (KeyError, ValueError, ZeroDivisionError):
        raise SourceError(f"gdppay: got {text[:80]!r}, expected raw RGB video") from None


def to_pixels(buffer: GdpBuffer, caps: Caps) -> UInt8Array:
    """Return a frame as uint8 (height, width, 3) RGB."""
    expected = caps.stride * caps.height
    if len(buffer.data) != expected:
        raise SourceError(f"gdppay: got a frame of {len(buffer.data)} bytes, expected {expected}")
    rows = np.frombuffer(buffer.data, dtype=np.uint8).reshape(caps.height, caps.stride)
    pixels = rows[:, : caps.width * 3].reshape(caps.height, caps.width, 3)
    return np.ascontiguousarray(pixels)


def _read_exactly(pipe: BinaryIO, count: int) -> bytearray | None:
    """`count` bytes, None where the pipe ends before the first; SourceError within them."""
    data = bytearray(count)
    view, done = memoryview(data), 0
    while done < count:
        got = pipe.readinto(view[done:])  # type: ignore[attr-defined]  # of buffered readers
        if not got:
            if done:
                raise SourceError("gdppay: broke off within a frame")
            return None
        done += got
    return data
