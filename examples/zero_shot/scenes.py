"""Photographs with one coloured digit each, and what can be said of them.

Photographs and digits are those of the detector's scenes. A fifth of the pairs of a colour and a
digit is held out: training has seen neither an image nor a sentence of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from detector.scenes import background, cut_digits, read_photos
from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (215, 25, 30),
    "orange": (250, 135, 10),
    "yellow": (245, 225, 40),
    "green": (30, 150, 50),
    "blue": (30, 70, 215),
    "purple": (140, 40, 170),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
"""Name of each colour, and its middle in RGB."""

PAIRS = tuple((colour, digit) for colour in range(len(COLOURS)) for digit in range(len(DIGITS)))
HELD_OUT = tuple((colour, digit) for colour, digit in PAIRS if (digit + 2 * colour) % 5 == 0)
"""Pairs that training does not see."""

_NEAREST = 75  # that a digit may be to what is behind it in luminance, of 255
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Scene:
    """One image: uint8 RGB pixels, and the indices of its colour and its digit."""

    pixels: npt.NDArray[np.uint8]
    colour: int
    digit: int


def label_of(colour: int, digit: int) -> str:
    """Return the name of a pair, such as ``red seven``."""
    return f"{tuple(COLOURS)[colour]} {DIGITS[digit]}"


def scenes(
    split: str, side: int, pairs: Sequence[tuple[int, int]], seed: int = 0, plain: float = 0.0
) -> Iterator[Scene]:
    """Yield endless square images of `side` pixels of the ``train`` or the ``test`` parts.

    A share of them, `plain`, has one colour behind the digit, not a photograph.
    """
    photos, (inks, classes) = read_photos(split), cut_digits(split)
    for photo in photos:
        photo.thumbnail((4 * side, 4 * side))
    by_digit = [np.flatnonzero(classes == digit) for digit in range(len(DIGITS))]
    random = np.random.default_rng(seed)
    while True:
        colour, digit = pairs[int(random.integers(len(pairs)))]
        ink = inks[int(random.choice(by_digit[digit]))]
        shade = np.array(tuple(COLOURS.values())[colour]) + random.uniform(-12, 12, 3)
        while True:
            if random.random() < plain:
                pixels = np.full((side, side, 3), random.uniform(0, 255, 3))
            else:
                pixels = background(photos[int(random.integers(len(photos)))], side, random)
            top, left, large = _place(ink, side, random)
            behind = pixels[top : top + large.shape[0], left : left + large.shape[1]]
            if abs((behind.mean((0, 1)) - shade) @ _LUMINANCE) > _NEAREST:
                break
        behind += large[..., None] * (np.clip(shade, 0, 255) - behind)
        yield Scene(pixels.round().astype(np.uint8), colour, digit)


def write_folders(
    folder: Path, split: str, pairs: Sequence[tuple[int, int]], count: int, side: int, seed: int
) -> Path:
    """Write `count` images as PNG files into a folder of `folder` for each label; return it."""
    for number, scene in zip(range(count), scenes(split, side, pairs, seed), strict=False):
        place = folder / label_of(scene.colour, scene.digit)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.pixels).save(place / f"{number:04d}.png")
    return folder


def _place(
    digit: npt.NDArray[np.float32], side: int, random: np.random.Generator
) -> tuple[int, int, npt.NDArray[np.float32]]:
    """Return top, left and the ink of `digit`, enlarged to 75 to 95 % of `side`."""
    height = side * random.uniform(0.75, 0.95)
    width = height * digit.shape[1] / digit.shape[0] * random.uniform(0.85, 1.2)
    size = (max(2, round(min(width, 0.95 * side))), round(height))
    large = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC), np.float32)
    top, left = (int(random.integers(0, side - length + 1)) for length in large.shape)
    return top, left, np.clip(large * 1.4 - 0.2, 0, 1)
