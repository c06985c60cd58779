"""Files, network streams and V4L2 cameras, through PyAV and the FFmpeg that it brings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from edge_vit.camera.clock import SYSTEM_CLOCK, Clock
from edge_vit.camera.sources.address import SourceAddress
from edge_vit.camera.sources.source import Capture
from edge_vit.camera.values import CaptureClock, SourceFormat
from edge_vit.errors import ImageError, SourceError
from edge_vit.optional import require
from edge_vit.video import Colour, colour_of, to_rgb

_PLAUSIBLE_NS = (
    10 * 10**9
)  # a driver's stamp that is older than this, or ahead, is of another clock
_MAX_PENDING = 64  # packets in a decoder
_MAX_BAD = 100  # frames in a row that cannot be decoded


class StreamSource:
    """Frames as FFmpeg decodes them, stamped when their packet arrived or by the driver.

    Args:
        address: of kind ``video``, ``rtsp`` or ``v4l2``.
        timeout_s: how long opening, and then a frame, may take.
        clock: of stamps.
    """

    def __init__(
        self, address: SourceAddress, timeout_s: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._address, self._timeout_s, self._clock = address, timeout_s, clock
        self._container: Any = None
        self._ready: deque[Capture] = deque()
        self._arrivals: dict[int, int] = {}  # presentation time -> when its packet arrived
        self._colour: Colour | None = None
        self._is_aborted = self._is_ended = False
        self._num_bad = 0

    def open(self) -> SourceFormat:
        """Connect, and decode the first frame: only it tells the colours."""
        self._av = require("av", f"reading {self._address.name}")
        kind = self._address.kind
        try:
            self._container = self._av.open(
                self._address.target,
                format="v4l2" if kind == "v4l2" else None,
                options=dict(stream_options(self._address)),
                timeout=None if kind == "video" else (self._timeout_s, self._timeout_s),
            )
            if not self._container.streams.video:
                raise SourceError(f"source {self._address.name} has no pictures")
            self._stream = self._container.streams.video[0]
            # Threads that work on several frames at once hold some of them back.
            self._stream.thread_type = "AUTO" if kind == "video" else "SLICE"
            self._packets = self._container.demux(self._stream)
        except self._av.error.FFmpegError as error:
            raise SourceError(
                f"source {self._address.name} cannot be opened: {_reason(error)}"
            ) from None
        first = self._decode_next()
        if first is None or self._colour is None:
            raise SourceError(f"source {self._address.name} holds no frames")
        self._ready.appendleft(first)
        height, width = first.pixels.shape[:2]
        rate = float(self._stream.average_rate or 0)
        return SourceFormat(width, height, rate, str(self._colour), first.clock)

    def read(self) -> Capture | None:
        """Return the next frame in the order in which they are shown."""
        return self._ready.popleft() if self._ready else self._decode_next()

    def abort(self) -> None:
        """Let the read that is under way, which its time limit ends, be the last."""
        self._is_aborted = True

    def close(self) -> None:
        """Close the connection or the file."""
        if self._container is not None:
            self._container.close()

    def _decode_next(self) -> Capture | None:
        """The next frame, from as many packets as it takes; None at the end."""
        while not self._ready:
            if self._is_ended:
                return None
            try:
                packet = next(self._packets, None)
                arrived_ns = self._clock.now_ns()
                if self._is_aborted:
                    raise SourceError(f"source {self._address.name} was closed")
                if packet is None:
                    self._is_ended = True
                    continue
                if packet.pts is not None:
                    self._note_arrival(packet.pts, arrived_ns)
                frames = packet.decode()
            except self._av.error.InvalidDataError:
                self._num_bad += 1
                if self._num_bad >= _MAX_BAD:
                    raise SourceError(
                        f"source {self._address.name}: {_MAX_BAD} frames in a row are damaged"
                    ) from None
                raise ImageError("a frame is damaged") from None
            except (self._av.error.FFmpegError, OSError) as error:
                raise SourceError(
                    f"source {self._address.name} was lost: {_reason(error)}"
                ) from None
            for frame in frames:
                self._num_bad = 0
                self._ready.append(self._to_capture(frame, arrived_ns))
        return self._ready.popleft()

    def _note_arrival(self, pts: int, arrived_ns: int) -> None:
        self._arrivals[pts] = arrived_ns
        while len(self._arrivals) > _MAX_PENDING:
            del self._arrivals[next(iter(self._arrivals))]

    def _to_capture(self, frame: Any, arrived_ns: int) -> Capture:
        self._colour = colour = colour_of(frame)
        pixels = to_rgb(frame, colour)
        captured_ns = self._arrivals.pop(frame.pts, arrived_ns) if frame.pts is not None else None
        clock: CaptureClock = "arrival"
        if self._address.kind == "v4l2" and frame.pts is not None:
            # The kernel stamps frames with the clock that never jumps, in seconds of its own.
            stamped_ns = round(frame.pts * frame.time_base * 10**9)
            if 0 <= arrived_ns - stamped_ns < _PLAUSIBLE_NS:
                captured_ns, clock = stamped_ns, "driver"
        if self._address.kind == "video":
            captured_ns = None  # of a file, being read is all that happens now
        return Capture(pixels, captured_ns, clock)


def stream_options(address: SourceAddress) -> Mapping[str, str]:
    """Return what FFmpeg is told about `address`, in its own words."""
    if address.kind == "rtsp":
        return {
            "rtsp_transport": address.options.get("transport", "tcp"),
            "fflags": "nobuffer",
            "flags": "low_delay",
        }
    options = {}
    if address.kind == "v4l2":
        if "width" in address.options or "height" in address.options:
            size = (address.number("width", 640), address.number("height", 480))
            options["video_size"] = "{}x{}".format(*size)
        if "rate" in address.options:
            options["framerate"] = address.options["rate"]
        if "format" in address.options:
            options["input_format"] = address.options["format"]
    return options


def _reason(error: BaseException) -> str:
    """What FFmpeg says, without the address that it says it of: there may be a password in it."""
    reason = getattr(error, "strerror", None) or type(error).__name__
    return str(reason)
