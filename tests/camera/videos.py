"""Real video files, made by PyAV; every frame can be told from every other."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "2", "crf": "10"}),
    "open.mp4": (
        "libx264",
        "yuv420p",
        # Groups whose first frames build on the group before.
        {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0:crf=10"},
    ),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {"qscale": "2"}),
}
LEVELS = 200  # gray levels that frames are told apart by


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Return a picture that says its number: a gray patch, on colours that shift with it."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(40, 200, width).astype(np.uint8)
    pixels[:, :, 1] = 90
    pixels[:, :, 2] = np.linspace(200, 40, height).astype(np.uint8)[:, None]
    pixels[16:48, 16:80] = level_of(number)
    return pixels


def level_of(number: int) -> int:
    return 20 + (number * 37) % LEVELS


def read_level(pixels: np.ndarray) -> float:
    return float(pixels[24:40, 24:72].mean())


def write_odd_video(
    path: Path,
    codec: str = "libx264",
    *,
    size: tuple[int, int] = (96, 64),
    pixel_format: str = "yuv420p",
    matrix: tuple[int, ...] = (),
    gap_ms: int = 0,
) -> Path:
    """Write 12 pictures, each `gap_ms` longer than the one before, to be shown by `matrix`.

    Args:
        path: of the video.
        codec: FFmpeg's name of the encoder.
        size: width and height, pixels.
        pixel_format: FFmpeg's name.
        matrix: a, b, c and d of FFmpeg's display matrix.
        gap_ms: milliseconds.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = Fraction(1, 1000)
        if matrix:
            a, b, c, d = (value << 16 for value in matrix)
            stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
        pts = 0
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            pts += 33 + number * gap_ms
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_video(path: Path, count: int = 60, codec: str | None = None, **stream_options) -> Path:
    """Write a video of `count` pictures at 30 frames a second, as the file's name says."""
    name, pixel_format, options = CODECS[codec or path.name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        stream.time_base = Fraction(1, 30)
        for key, value in stream_options.items():
            setattr(stream.codec_context, key, value)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
