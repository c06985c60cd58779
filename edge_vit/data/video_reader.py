"""Frames of a video, the good ones alone, as RGB: for files and cameras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_vit.data.preprocess import UInt8Array
from edge_vit.optional import require

MAX_ERRORS = 100  # errors of a demuxer in a row after which a video counts as broken off
_TS_PACKETS = (188, 192, 204)  # bytes of a transport stream's packets, of its three forms
_MAX_PENDING = 64  # packets that a decoder may hold before it gives a frame
# Codecs of which each packet is one frame to show. VP8, VP9, AV1 and MPEG-4 have hidden ones.
_SHOWN_EACH = frozenset(
    ("h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "rawvideo", "png", "prores", "ffv1")
)
# Codecs whose decoder shows guesses until the first key frame, and does not mark them.
_GUESSED_UNTIL_KEY = frozenset(
    ("mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v2", "msmpeg4v3", "h263", "flv1", "wmv1", "wmv2")
)
_FIELD_CODECS = frozenset(("h264", "hevc", "mpeg1video", "mpeg2video"))
_HD_HEIGHT = 720
# ITU-T H.273, matrix coefficients: what FFmpeg's AVColorSpace counts.
_MATRICES = {0: "RGB", 1: "BT.709", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}
_FULL_RANGE = 2  # AVColorRange


@dataclass
class FrameCounts:
    """Counts of a video's frames."""

    good: int = 0
    corrupt: int = 0  # decoded with errors, so that parts of them are guessed
    undecodable: int = 0  # lost in the decoder
    missing: int = 0  # announced by a file that was cut off
    traced: int = 0  # good ones between a bad one and the next key frame
    is_cut_off: bool = False  # in the middle of a packet, of a file that announces no number

    @property
    def left_out(self) -> int:
        """Frames that are not good."""
        return self.corrupt + self.undecodable + self.missing

    def __str__(self) -> str:
        kinds = {
            "corrupt": self.corrupt,
            "undecodable": self.undecodable,
            "missing, as the file is cut off": self.missing,
        }
        bad = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        text = f"{self.good} of {self.good + self.left_out} frames are good"
        text += f"; left out: {bad}" if bad else ""
        if self.traced:
            text += f"; {self.traced} that follow a bad one may show traces of it"
        if self.is_cut_off:
            text += "; the file ends in the middle of a packet, as it was cut off"
        return text


class FrameDecoder:
    """Decodes the packets of one stream of an open `container`; frames without errors come out.

    Of a stream that was running before (`is_joined`) nothing counts as lost until its first key
    frame.
    """

    def __init__(
        self, av: ModuleType, container: Any, stream: Any, *, is_joined: bool = False
    ) -> None:
        self._av, self._container, self._stream = av, container, stream
        codec = stream.codec_context.name
        self._is_shown_each = codec in _SHOWN_EACH
        self._is_guessing = codec in _GUESSED_UNTIL_KEY
        self._is_joining = is_joined
        self._has_fields = codec in _FIELD_CODECS
        self._due = 0  # frames that the packets so far have to show
        self._bad_since: int | None = None  # first bad frame after a key frame
        self._end_byte = 0  # of the packets so far
        self._is_flushed = False
        self.num_packets = 0
        self.num_errors = 0  # packets that the decoder refused
        self.counts = FrameCounts()
        self.is_broken_off = False  # the demuxer gave up

    def packets(self) -> Iterator[Any]:
        """Yield the stream's packets, and at the end one that flushes the decoder."""
        num_errors = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    num_errors = 0
                    self._end_byte = max(self._end_byte, (packet.pos or 0) + packet.size)
                    yield packet
                return
            except self._av.error.InvalidDataError:
                num_errors += 1
            if num_errors >= MAX_ERRORS:
                self.is_broken_off = True
                yield None
                return

    def decode(self, packet: Any) -> list[Any]:
        """Return the good frames that `packet` completes; None and an empty packet flush."""
        is_flush = packet is None or is_end(packet)
        if not is_flush:
            self.num_packets += 1
            if not packet.size:  # of AVI: show the frame before for longer
                return []
            self._is_joining = self._is_joining and not packet.is_keyframe
            if packet.is_discard:  # an edit list hides it; the decoder needs it for others
                self._is_guessing = self._is_guessing and not packet.is_keyframe
            elif not self._is_joining:
                self._due += 1
        elif self._is_flushed:
            return []
        try:
            frames = self._stream.decode(None) if is_flush else packet.decode()
        except self._av.error.InvalidDataError:
            frames = []
            self.num_errors += 1
            self._note_bad(None if is_flush else packet.pts)
            if not self._is_joining:
                self._due -= 1
                self.counts.undecodable += 1
        good = [frame for frame in frames if self._is_good(frame)]
        if self._is_shown_each and (is_flush or self._due > _MAX_PENDING):
            # An error that is reported late took a packet that gave a frame all the same.
            num_lost = self._due if is_flush else 1
            self.counts.undecodable = max(0, self.counts.undecodable + num_lost)
            self._due -= num_lost
        self._is_flushed = is_flush
        return good

    def count_missing(self) -> int:
        """Return how many frames an MP4 file announces beyond those that it held, at its end.

        Other files announce none: of them `counts` has only whether they are cut off.
        """
        names = str(self._container.format.name).split(",")
        path, size = Path(self._container.name), self._container.size
        if "mov" in names:
            entries = getattr(self._stream, "index_entries", ())
            if any(entry.pos + entry.size > size for entry in entries):
                self.counts.missing = max(0, len(entries) - self.num_packets)
        elif "yuv4mpegpipe" in names:
            self.counts.is_cut_off = self._end_byte < size
        elif "mpegts" in names:
            self.counts.is_cut_off = all(size % length for length in _TS_PACKETS)
        elif "avi" in names or "matroska" in names:
            self.counts.is_cut_off = _announced_bytes(path) > size
        return self.counts.missing

    def _is_good(self, frame: Any) -> bool:
        """Count `frame`, and return whether it has no errors."""
        self._due -= 1
        # Two packets may be the two fields of one frame: what is lost cannot be counted so.
        self._is_shown_each &= not (frame.interlaced_frame and self._has_fields)
        if frame.key_frame:
            self._is_guessing, self._bad_since = False, None
        if frame.is_corrupt or self._is_guessing:
            if self._is_joining:
                return False
            self.counts.corrupt += 1
            self._note_bad(frame.pts)
            return False
        self.counts.good += 1
        if self._bad_since is not None:
            self.counts.traced += frame.pts is None or frame.pts > self._bad_since
        return True

    def _note_bad(self, pts: int | None) -> None:
        if self._bad_since is None:
            self._bad_since = -1 if pts is None else pts


@dataclass(frozen=True)
class Colour:
    """The conversion of a video's pixels to RGB of full range, 0 to 255.

    Where the stream does not name its matrix its height chooses: BT.709 from 720 lines on, as
    television has it, else BT.601.
    """

    pixel_format: str  # as FFmpeg calls it
    matrix: str  # BT.601, BT.709, BT.2020; RGB where nothing was to be converted
    is_full_range: bool  # whether luma runs from 0 to 255; else from 16 to 235
    is_matrix_assumed: bool

    def __str__(self) -> str:
        if self.matrix == "RGB":
            return f"{self.pixel_format}, nothing to convert"
        assumed = " (assumed: the stream does not say)" if self.is_matrix_assumed else ""
        reach = "full" if self.is_full_range else "limited"
        return f"{self.pixel_format} {self.matrix}{assumed}, {reach} range"


def colour_of(frame: Any) -> Colour:
    """Return how `frame`, a decoded PyAV frame, is to become RGB."""
    name = frame.format.name
    is_rgb = frame.format.is_rgb
    matrix = "RGB" if is_rgb else _MATRICES.get(int(frame.colorspace), "")
    if not matrix or (matrix == "RGB" and not is_rgb):
        guess = "BT.709" if frame.height >= _HD_HEIGHT else "BT.601"
        return Colour(name, guess, _has_full_range(frame), True)
    return Colour(name, matrix, is_rgb or _has_full_range(frame), False)


def to_rgb(frame: Any, colour: Colour) -> UInt8Array:
    """Return `frame`, a decoded PyAV frame, as uint8 (H, W, 3) RGB, upright."""
    if colour.matrix == "RGB":
        pixels = frame.to_ndarray(format="rgb24")
    else:
        reformatter = require("av.video.reformatter", "reading videos")
        spaces, ranges = reformatter.Colorspace, reformatter.ColorRange
        space = {"BT.709": spaces.ITU709, "BT.2020": getattr(spaces, "BT2020", spaces.ITU709)}.get(
            colour.matrix, spaces.ITU601
        )
        converted = frame.reformat(
            format="rgb24",
            src_colorspace=space,
            dst_colorspace=space,
            src_color_range=ranges.JPEG if colour.is_full_range else ranges.MPEG,
            dst_color_range=ranges.JPEG,
        )
        pixels = converted.to_ndarray()
    return np.ascontiguousarray(_upright(pixels, frame))


def _upright(pixels: UInt8Array, frame: Any) -> UInt8Array:
    """`pixels` turned and mirrored as the display matrix of `frame` says, in steps of 90 degrees.

    The matrix takes (x, y) to (ax + cy, bx + dy), see FFmpeg's ``libavutil/display.h``.
    """
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that PyAV does not know, such as the EXIF of a JPEG
        return np.rot90(pixels, round(frame.rotation / 90))
    if data is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), "<i4")[:9] / 65536
    if max(abs(a), abs(d)) < max(abs(b), abs(c)):
        pixels, along, down = pixels.transpose(1, 0, 2), c, b
    else:
        along, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if along < 0 else 1]


def _has_full_range(frame: Any) -> bool:
    return int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")


def is_end(packet: Any) -> bool:
    """Return whether `packet` is the empty one that ends a stream."""
    return packet.size == 0 and packet.dts is None and packet.pts is None


def video_stream(container: Any) -> Any | None:
    """Return the first stream of `container` that shows more than a cover; None without one."""
    for stream in container.streams.video:
        disposition: Any = getattr(stream, "disposition", 0)
        cover: Any = getattr(type(disposition), "attached_pic", 0)
        if not disposition & cover and stream.codec_context is not None:
            return stream
    return None


def explain_unreadable(path: Path, reason: str) -> str:
    """Return why a file cannot be opened, where FFmpeg gives `reason`."""
    if path.is_file() and not path.stat().st_size:
        return "it is empty"
    if "Invalid data" in reason:
        return "it is damaged, was cut off before its index was written, or is no video"
    return reason


def _announced_bytes(path: Path) -> int:
    """Size that the header of an AVI or Matroska file states; 0 where it states none."""
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        return 0 if size in (0, 2**32 - 1) else size + 8
    segment = head.find(b"\x18\x53\x80\x67") + 4  # its size comes next, behind a short header
    if segment < 4 or not any(head[segment : segment + 1]):
        return 0
    width = 9 - head[segment].bit_length()  # of the size: zero bits before the first one
    size = int.from_bytes(head[segment : segment + width], "big") - (1 << 7 * width)
    is_unknown = size == (1 << 7 * width) - 1
    return 0 if is_unknown else segment + width + size
