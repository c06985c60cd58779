"""Files, network streams and V4L2 cameras, through PyAV."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_vit.camera.sources.address import SourceAddress
from edge_vit.camera.sources.source import PLAUSIBLE_NS, Capture, FrameSource
from edge_vit.camera.threads import Clock
from edge_vit.camera.values import CaptureClock, SourceFormat
from edge_vit.data import video_reader
from edge_vit.errors import ImageError, SourceError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require

_MAX_PENDING = 64  # packets in a decoder


class StreamSource(FrameSource):
    """Frames as FFmpeg decodes them, stamped when their packet arrived or by the driver."""

    def __init__(self, address: SourceAddress, timeout_s: float, clock: Clock) -> None:
        self._address, self._timeout_s, self._clock = address, timeout_s, clock
        self._is_file = address.kind == "video"
        self._container: Any = None
        self._ready: deque[Capture] = deque()
        self._arrivals: dict[int, int] = {}  # presentation time -> when its packet arrived
        self._colour: video_reader.Colour | None = None
        self._is_aborted = self._is_ended = False
        self._num_corrupt = self._num_undecodable = 0  # that `read` has raised for
        self._num_bad = 0  # in a row
        self._has_decoded = False

    def open(self) -> SourceFormat:
        """Connect, and decode the first good frame: only a frame has the colours."""
        self._av = require("av", f"reading {self._address.name}")
        self._connect()
        first = self._decode_next()
        if first is None or self._colour is None:
            counts = self._decoder.counts
            why = f"no frame that can be decoded: {counts}" if counts.left_out else "no frames"
            raise SourceError(f"source {self._address.name} holds {why}")
        self._ready.appendleft(first)
        height, width = first.pixels.shape[:2]
        rate = float(self._stream.average_rate or 0)
        return SourceFormat(width, height, rate, str(self._colour), first.clock)

    def read(self) -> Capture | None:
        """Return the next good frame in the order in which they are shown."""
        capture = self._ready.popleft() if self._ready else self._decode_next()
        self._report_bad(capture)
        if capture is None and self._is_file:
            self._refuse_cut_off()
        return capture

    def abort(self) -> None:
        """Let the read that is under way, which its time limit ends, be the last."""
        self._is_aborted = True

    def close(self) -> None:
        """Close the connection or the file."""
        if self._container is not None:
            self._container.close()

    def _connect(self) -> None:
        is_v4l2 = self._address.kind == "v4l2"
        if self._is_file:
            refuse_lfs_pointer(Path(self._address.target), SourceError)
        try:
            self._container = self._av.open(
                self._address.target,
                format="v4l2" if is_v4l2 else None,
                options=dict(stream_options(self._address)),
                timeout=None if self._is_file else (self._timeout_s, self._timeout_s),
            )
            self._stream: Any = video_reader.video_stream(self._container)
            if self._stream is None:
                raise SourceError(f"source {self._address.name} has no pictures")
            # Threads for several frames at once hold some back, and lose good ones beside bad ones.
            self._stream.thread_type = "NONE" if self._is_file else "SLICE"
            self._decoder = video_reader.FrameDecoder(
                self._av, self._container, self._stream, is_joined=not self._is_file
            )
            self._packets = self._decoder.packets()
        except self._av.error.FFmpegError as error:
            why = self._explain(error)
            if self._is_file:
                why = video_reader.explain_unreadable(Path(self._address.target), why)
            raise SourceError(f"source {self._address.name} cannot be opened: {why}") from None

    def _decode_next(self) -> Capture | None:
        """The next good frame, from as many packets as it takes; None at the end."""
        while not self._ready:
            if self._is_ended:
                return None
            num_errors = self._decoder.num_errors
            try:
                packet = next(self._packets, None)
                arrived_ns = self._clock.now_ns()
                if self._is_aborted:
                    raise SourceError(f"source {self._address.name} was closed")
                if packet is None:
                    self._is_ended = True
                elif packet.pts is not None:
                    self._note_arrival(packet.pts, arrived_ns)
                frames = self._decoder.decode(packet)
            except (self._av.error.FFmpegError, OSError) as error:
                raise SourceError(
                    f"source {self._address.name} was lost: {self._explain(error)}"
                ) from None
            self._num_bad = 0 if frames else self._num_bad + self._decoder.num_errors - num_errors
            # Before the first frame it is no error: it may have been joined in a long group.
            if self._has_decoded and self._num_bad >= video_reader.MAX_ERRORS and not self._is_file:
                raise SourceError(
                    f"source {self._address.name}: {self._num_bad} frames in a row are damaged"
                )
            self._has_decoded |= bool(frames)
            self._ready += [self._to_capture(frame, arrived_ns) for frame in frames]
        return self._ready.popleft()

    def _report_bad(self, capture: Capture | None) -> None:
        """Raise for one frame that was left out, if there is one that was not reported yet."""
        counts = self._decoder.counts
        if counts.corrupt > self._num_corrupt:
            self._num_corrupt, what = self._num_corrupt + 1, "a frame is corrupt"
        elif counts.undecodable > self._num_undecodable:
            self._num_undecodable, what = self._num_undecodable + 1, "a frame cannot be decoded"
        else:
            return
        if capture is not None:
            self._ready.appendleft(capture)
        raise ImageError(what)

    def _refuse_cut_off(self) -> None:
        if self._decoder.count_missing() or self._decoder.counts.is_cut_off:
            raise SourceError(f"source {self._address.name} is cut off: {self._decoder.counts}")
        if self._decoder.is_broken_off:
            raise SourceError(
                f"source {self._address.name} cannot be read to its end: {self._decoder.counts}"
            )

    def _explain(self, error: BaseException) -> str:
        """What FFmpeg says, without the address: there may be a password in it."""
        if isinstance(error, self._av.error.ExitError):  # as FFmpeg calls our time limit
            return f"nothing came for {self._timeout_s:g} s"
        return str(getattr(error, "strerror", None) or type(error).__name__)

    def _note_arrival(self, pts: int, arrived_ns: int) -> None:
        self._arrivals[pts] = arrived_ns
        while len(self._arrivals) > _MAX_PENDING:
            del self._arrivals[next(iter(self._arrivals))]

    def _to_capture(self, frame: Any, arrived_ns: int) -> Capture:
        self._colour = video_reader.colour_of(frame)
        pixels = video_reader.to_rgb(frame, self._colour)
        captured_ns = self._arrivals.pop(frame.pts, arrived_ns) if frame.pts is not None else None
        clock: CaptureClock = "arrival"
        if self._address.kind == "v4l2" and frame.pts is not None:
            # The kernel stamps frames with the clock that never jumps, in seconds of its own.
            stamped_ns = round(frame.pts * frame.time_base * 10**9)
            if 0 <= arrived_ns - stamped_ns < PLAUSIBLE_NS:
                captured_ns, clock = stamped_ns, "driver"
        if self._is_file:
            captured_ns = None  # of a file, being read is all that happens now
        return Capture(pixels, captured_ns, clock)


def stream_options(address: SourceAddress) -> Mapping[str, str]:
    """Return FFmpeg's options for `address`."""
    given = address.options
    if address.kind == "rtsp":
        transport = given.get("transport", "tcp")
        return {"rtsp_transport": transport, "fflags": "nobuffer", "flags": "low_delay"}
    if address.kind == "http":
        # Some cameras send a stream of JPEG that names no length; a second is enough to know it.
        return {"fflags": "nobuffer", "analyzeduration": "1000000"}
    names = {"rate": "framerate", "format": "input_format"}
    options = {names[name]: value for name, value in given.items() if name in names}
    if "width" in given or "height" in given:
        options["video_size"] = f"{given.get('width', 640)}x{given.get('height', 480)}"
    return options
