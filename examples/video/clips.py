"""Handwritten digits that move over photographs: clips whose class no single frame tells.

A digit goes left, right, up or down, comes nearer or goes farther away, while the camera drifts a
little. A clip that is played backwards is one of the opposite class. Photographs and digits of the
test clips are not among those of the training clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from detector.scenes import background, cut_digits, read_photos
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

LABELS = ("left", "right", "up", "down", "nearer", "farther")
_WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # of the first four, across and down
_DRIFT = 0.08  # of the camera over a clip, at most, over the side of the picture


@dataclass(frozen=True)
class Clip:
    """One clip: uint8 RGB pixels (frames, side, side, 3), and the index of its label.

    `boxes` are the corners of the digit in each frame, (frames, 4), in shares of the side.
    """

    pixels: UInt8Array
    label: int
    boxes: FloatArray


def clips(split: str, side: int, frames: int, seed: int = 0) -> Iterator[Clip]:
    """Yield endless clips of `side` pixels, made of the ``train`` or the ``test`` parts."""
    photos, (digits, _) = read_photos(split), cut_digits(split)
    random = np.random.default_rng(seed)
    while True:
        photo = photos[random.integers(len(photos))]
        digit = digits[random.integers(len(digits))]
        yield _clip(photo, digit, int(random.integers(len(LABELS))), side, frames, random)


def write_clips(folder: Path, split: str, count: int, side: int, frames: int, seed: int) -> Path:
    """Write `count` clips as videos into class folders of `folder`; return it."""
    made = zip(range(count), clips(split, side, frames, seed), strict=False)
    for number, clip in made:
        path = folder / LABELS[clip.label] / f"{number:04d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, clip.pixels)
    return folder


def write_video(path: Path, pixels: UInt8Array, rate: int = 15) -> None:
    """Write frames (frames, height, width, 3) as MPEG-4 video of high quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for frame in pixels:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _clip(
    photo: Image.Image,
    digit: FloatArray,
    label: int,
    side: int,
    frames: int,
    random: np.random.Generator,
) -> Clip:
    """Return a clip; at its middle all classes look the same."""
    edge = round(side * (1 + _DRIFT))
    scene = background(photo, edge, random)
    times = np.linspace(-0.5, 0.5, frames)
    height, far = side * random.uniform(0.3, 0.45), random.uniform(0.35, 0.5)
    middle = random.uniform(0.38, 0.62, 2) * side
    drift = random.uniform(0, edge - side, (2, 2))
    colour: FloatArray | None = None
    pixels = np.empty((frames, side, side, 3), np.uint8)
    boxes = np.empty((frames, 4), np.float32)
    for number, time in enumerate(times):
        left, top = (drift[0] * (0.5 - time) + drift[1] * (0.5 + time)).round().astype(int)
        frame = scene[top : top + side, left : left + side].copy()
        size, at = height, middle
        if label < len(_WAYS):
            at = middle + np.array(_WAYS[label]) * far * side * time
        else:
            size = height * 2 ** (time if LABELS[label] == "nearer" else -time)
        ink = _enlarged(digit, size)
        colour = _contrast(frame, random) if colour is None else colour
        _paste(frame, ink, at, colour)
        pixels[number] = frame.round().astype(np.uint8)
        half = np.array(ink.shape[::-1]) / 2
        boxes[number] = np.concatenate([at - half, at + half]) / side
    return Clip(pixels, label, boxes)


def _enlarged(digit: FloatArray, height: float) -> FloatArray:
    """Return the ink of `digit` so many pixels high."""
    size = max(2, round(height * digit.shape[1] / digit.shape[0])), max(2, round(height))
    large = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(large, np.float32) * 1.4 - 0.2, 0, 1)


def _contrast(frame: FloatArray, random: np.random.Generator) -> FloatArray:
    """Return a colour that is lighter or darker than the middle of `frame`."""
    quarter = len(frame) // 4
    level = float(frame[quarter:-quarter, quarter:-quarter].mean())
    shades = (min(level + 110, 240), 255) if level < 128 else (0, max(level - 110, 15))
    return random.uniform(*shades, 3).astype(np.float32)


def _paste(frame: FloatArray, ink: FloatArray, middle: FloatArray, colour: FloatArray) -> None:
    """Draw `ink` around `middle` (x, y), as far as it lies in `frame`."""
    height, width = ink.shape
    x, y = round(middle[0] - width / 2), round(middle[1] - height / 2)
    rows = slice(max(0, y), min(len(frame), y + height))
    columns = slice(max(0, x), min(len(frame), x + width))
    shown = ink[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x, None]
    behind = frame[rows, columns]
    behind += shown * (colour - behind)
