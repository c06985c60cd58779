"""Video files: the one way from a decoded frame to RGB, and a file as a source of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.errors import ImageError
from edge_vit.image_folder import spread
from edge_vit.optional import require
from edge_vit.preprocess import UInt8Array

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mkv", ".mov", ".avi", ".webm", ".ts", ".mpg", ".mpeg"),
    *(".h264", ".264", ".h265", ".hevc", ".mjpeg", ".mjpg"),
)
"""How the names of video files end, in lower case."""

_HD_HEIGHT = 720
# ITU-T H.273, matrix coefficients: what FFmpeg's AVColorSpace counts.
_MATRICES = {0: "RGB", 1: "BT.709", 5: "BT.601", 6: "BT.601", 9: "BT.2020"}
_FULL_RANGE = 2  # AVColorRange


@dataclass(frozen=True)
class Colour:
    """How the pixels of a video became RGB of full range, 0 to 255.

    Attributes:
        pixel_format: as FFmpeg calls it, such as ``yuv420p``.
        matrix: BT.601, BT.709, BT.2020; ``RGB`` where nothing was to be converted.
        is_full_range: whether luma runs from 0 to 255; else from 16 to 235.
        is_matrix_assumed: the stream does not name its matrix, so its height chose: BT.709 from 720
            lines on, as television has it, else BT.601.
    """

    pixel_format: str
    matrix: str
    is_full_range: bool
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
    """Return `frame`, a decoded PyAV frame, as uint8 (H, W, 3) RGB, upright.

    Args:
        frame: as it came from the decoder.
        colour: what `colour_of` says of it.
    """
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
    quarters = round(getattr(frame, "rotation", 0) / 90) % 4
    # The angle is counterclockwise; so are numpy's quarter turns.
    result: UInt8Array = np.ascontiguousarray(np.rot90(pixels, quarters))
    return result


def _has_full_range(frame: Any) -> bool:
    return int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")


class VideoSource:
    """Frames of a video file as images without labels, in the order in which they are shown.

    Only the stretches between key frames that hold a wanted frame are decoded.

    Args:
        path: of the file.
        limit: take this many frames at most, spread evenly.

    Raises:
        ImageError: it is missing, holds no video, or is damaged.
        SpecError: `limit` is below 1.
        MissingDependencyError: PyAV is not installed.
    """

    labels: tuple[str, ...] = ()
    has_labels = False

    def __init__(self, path: str | Path, limit: int | None = None) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise ImageError(f"video {path} does not exist or is no file. Check the path")
        self._av = require("av", f"reading the video {path}")
        self._groups = self._read_groups()
        shown = sorted(pts for group in self._groups for pts in group)
        if not shown:
            raise ImageError(f"video {path} holds no frames")
        chosen = spread(len(shown), limit)
        self._wanted = {pts: place for place, pts in enumerate(shown) if chosen[place]}

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[Any]:
        from edge_vit.images import ImageItem  # which opens videos itself

        missing = dict(self._wanted)
        with self._open() as (container, stream):
            for frame in self._decode(container, stream):
                place = missing.pop(frame.pts, None)
                if place is not None:
                    pixels = to_rgb(frame, colour_of(frame))
                    yield ImageItem(f"{self._path}#{place}", pixels, None)
        if missing:
            raise ImageError(
                f"video {self._path} is damaged: {len(missing)} of {len(self._wanted)} frames "
                f"cannot be decoded, the first is frame {min(missing.values())}"
            )

    def _read_groups(self) -> list[list[int]]:
        """Presentation times of each key frame and of what follows it, in the file's order."""
        groups: list[list[int]] = []
        with self._open() as (container, stream):
            for packet in container.demux(stream):
                if packet.pts is None:
                    continue
                if packet.is_keyframe or not groups:
                    groups.append([])
                groups[-1].append(packet.pts)
        return groups

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames of the groups that hold wanted ones, and of some others."""
        is_needed = [any(pts in self._wanted for pts in group) for group in self._groups]
        place, is_decoding = -1, False
        for packet in container.demux(stream):
            if packet.pts is not None and (packet.is_keyframe or place < 0):
                place += 1
            # The first frames of a group may build on the group before.
            is_due = any(is_needed[max(0, place) : place + 2])
            if is_decoding and not is_due:
                yield from stream.decode(None)
                stream.codec_context.flush_buffers()
            is_decoding = is_due
            if is_due:
                with contextlib.suppress(self._av.error.InvalidDataError):
                    yield from packet.decode()

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        try:
            with self._av.open(str(self._path)) as container:
                if not container.streams.video:
                    raise ImageError(f"video {self._path} holds sound alone, expected pictures")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                yield container, stream
        except self._av.error.FFmpegError as error:
            raise ImageError(f"video {self._path} cannot be read: {error.strerror}") from None
