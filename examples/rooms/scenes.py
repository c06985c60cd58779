"""Rooms of photographs with objects in them, and the true class, object and depth of each pixel.

A room has a floor and a wall, each covered with a photograph, the floor's in perspective. Objects
stand upright on the floor: handwritten digits, discs, triangles, squares and stars, in one colour
or covered with a piece of a photograph. What is far away is smaller, stands higher in the picture,
is paler, and is hidden by what is in front of it. Photographs and digits of the test scenes are
not among those of the training scenes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from detector.scenes import cut_digits, read_photos
from PIL import Image, ImageDraw

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

LABELS = ("background", "digit", "disc", "triangle", "square", "star")
PALETTE = (0, 0, 0, 230, 159, 0, 86, 180, 233, 0, 158, 115, 240, 228, 66, 204, 121, 167)
MILLIMETRES = 1000
"""Of a metre: depths are stored as whole millimetres."""

_FOCAL = 0.9  # over the side of the image
_NEAREST, _FARTHEST = 1.6, 7.0  # metres from the camera, which is 1 metre above the floor
_HAZE = 14.0  # metres over which colours fade to a third
_FINE = 4  # an outline is drawn so many times as large, then made smaller
_SHOWN = 0.15  # of an object that has to stay visible


@dataclass(frozen=True)
class Scene:
    """One square image and its truth.

    Attributes:
        pixels: uint8 (side, side, 3) RGB.
        classes: index in `LABELS` of each pixel, uint8 (side, side).
        objects: number of the object that each pixel shows, from 1; 0 for the room, uint8.
        depth: metres along the camera's axis, float32 (side, side).
    """

    pixels: UInt8Array
    classes: UInt8Array
    objects: UInt8Array
    depth: FloatArray


def scenes(split: str, side: int, seed: int = 0) -> Iterator[Scene]:
    """Yield endless scenes of `side` pixels, made of the ``train`` or the ``test`` parts."""
    pictures, (digits, _) = read_photos(split), cut_digits(split)
    random = np.random.default_rng(seed)
    while True:
        yield _scene(pictures, digits, side, random)


def write_scenes(folder: Path, split: str, count: int, side: int, seed: int) -> Path:
    """Write `count` scenes below `folder`, and return it.

    ``images`` holds them as PNG, ``masks`` the classes by index with a palette, ``instances`` the
    numbers of the objects, and ``depth`` millimetres in 16 bits; ``labels.txt`` names the classes.
    """
    for name in ("images", "masks", "instances", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    for number, scene in zip(range(1, count + 1), scenes(split, side, seed), strict=False):
        mask = Image.fromarray(scene.classes)
        mask.putpalette(PALETTE)
        millimetres = (scene.depth * MILLIMETRES).round().astype(np.uint16)
        for name, image in (
            ("images", Image.fromarray(scene.pixels)),
            ("masks", mask),
            ("instances", Image.fromarray(scene.objects)),
            ("depth", Image.fromarray(millimetres)),
        ):
            image.save(folder / name / f"{number:04d}.png")
    return folder


def _scene(
    pictures: list[Image.Image],
    digits: list[FloatArray],
    side: int,
    random: np.random.Generator,
) -> Scene:
    horizon = side * random.uniform(0.25, 0.42)
    wall = random.uniform(4.5, _FARTHEST)
    depth = _room(side, horizon, wall)
    colours = _covered(pictures, depth < wall, depth, side, random)
    classes, objects = np.zeros((2, side, side), np.uint8)
    distances = np.sort(random.uniform(_NEAREST, wall - 0.3, random.integers(4, 8)))[::-1]
    for number, distance in enumerate(distances.tolist(), 1):
        index = int(random.integers(1, len(LABELS)))
        height = max(8, round(side * _FOCAL * random.uniform(0.55, 1.0) / distance))
        outline = _outline(index, height, digits, random)
        bottom = round(horizon + side * _FOCAL / distance)
        left = int(random.integers(-outline.shape[1] // 4, side - 3 * outline.shape[1] // 4))
        shape, place = _visible(outline, bottom - len(outline), left, side)
        if not shape.size or shape.sum() < _SHOWN * outline.sum():
            continue
        colour = _fill(pictures, shape.shape, colours[place].mean(), random)
        colours[place] += shape[..., None] * (colour - colours[place])
        inside = shape > 0.5
        for layer, value in ((classes, index), (objects, number), (depth, distance)):
            layer[place][inside] = value
    pale = np.exp(-depth / _HAZE)[..., None]
    colours = colours * pale + random.uniform(150, 220) * (1 - pale)
    pixels = np.clip(
        colours * random.uniform(0.85, 1.15) + random.normal(0, 3, colours.shape), 0, 255
    )
    return Scene(pixels.round().astype(np.uint8), classes, objects, depth)


def _room(side: int, horizon: float, wall: float) -> FloatArray:
    """Return the depth of floor and wall; the camera is 1 metre above the floor."""
    below = np.arange(side) + 0.5 - horizon
    rows = np.minimum(np.where(below > 0, side * _FOCAL / np.maximum(below, 1e-3), wall), wall)
    return np.repeat(rows.astype(np.float32)[:, None], side, axis=1)


def _covered(
    pictures: list[Image.Image],
    is_floor: npt.NDArray[np.bool_],
    depth: FloatArray,
    side: int,
    random: np.random.Generator,
) -> FloatArray:
    """Return the room's colours: one photograph on the floor, seen in perspective, one behind."""
    colours = _piece(pictures, (side, side), random)
    floor = _piece(pictures, (256, 256), random)
    across = np.broadcast_to(np.arange(side) - side / 2, depth.shape) * depth / (side * _FOCAL)
    scale = random.uniform(80, 140)  # of the photograph's pixels in a metre
    places = [(metres * scale).astype(int) % 510 for metres in (depth, across)]
    rows, columns = (np.where(at > 255, 510 - at, at) for at in places)  # it, then its mirror image
    colours[is_floor] = floor[rows, columns][is_floor]
    return colours


def _piece(
    pictures: list[Image.Image], shape: tuple[int, int], random: np.random.Generator
) -> FloatArray:
    """Return a random piece of a random photograph, brought to `shape`, lighter or darker."""
    photo = pictures[random.integers(len(pictures))]
    edge = int(min(photo.size) * random.uniform(0.3, 0.9))
    left, top = (int(random.integers(0, length - edge + 1)) for length in photo.size)
    box = (left, top, left + edge, top + edge)
    part = photo.resize(shape[::-1], Image.Resampling.BILINEAR, box, reducing_gap=2)
    pixels = np.asarray(part, np.float32)[:, :: random.choice([-1, 1])]
    return np.clip(pixels * random.uniform(0.7, 1.2) + random.uniform(-20, 20), 0, 255)


def _outline(
    index: int, height: int, digits: list[FloatArray], random: np.random.Generator
) -> FloatArray:
    """Return how much of each pixel an object of class `index` covers, (height, width), 0 to 1."""
    width = max(6, round(height * random.uniform(0.8, 1.2)))
    if LABELS[index] == "digit":
        digit = Image.fromarray(digits[random.integers(len(digits))])
        width = max(6, round(height * random.uniform(0.6, 0.9)))
        large = digit.resize((width, height), Image.Resampling.BICUBIC)
        return np.clip(np.asarray(large, np.float32) * 1.6 - 0.3, 0, 1)
    canvas = Image.new("L", (width * _FINE, height * _FINE))
    pen = ImageDraw.Draw(canvas)
    right, bottom = canvas.width - 1, canvas.height - 1
    if LABELS[index] == "disc":
        pen.ellipse((0, 0, right, bottom), fill=255)
    elif LABELS[index] == "triangle":
        pen.polygon(((right * random.uniform(0.3, 0.7), 0), (right, bottom), (0, bottom)), fill=255)
    elif LABELS[index] == "square":
        pen.rectangle((0, 0, right, bottom), fill=255)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 0.42, 1.0)
        x, y = np.cos(angles) * radii, np.sin(angles) * radii
        points = zip(
            (x - x.min()) / np.ptp(x) * right, (y - y.min()) / np.ptp(y) * bottom, strict=True
        )
        pen.polygon([(float(a), float(b)) for a, b in points], fill=255)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _visible(
    outline: FloatArray, top: int, left: int, side: int
) -> tuple[FloatArray, tuple[slice, slice]]:
    """Return the part of `outline` that lies in the image, and where it lies."""
    rows = slice(max(top, 0), min(top + outline.shape[0], side))
    columns = slice(max(left, 0), min(left + outline.shape[1], side))
    part = outline[
        rows.start - top : max(rows.stop - top, 0),
        columns.start - left : max(columns.stop - left, 0),
    ]
    return part, (rows, columns)


def _fill(
    pictures: list[Image.Image],
    shape: tuple[int, ...],
    behind: float,
    random: np.random.Generator,
) -> FloatArray:
    """Return the colours of an object: a piece of a photograph, or one that differs from behind."""
    if random.random() < 0.5:
        tint = random.uniform(0.4, 1.3, 3).astype(np.float32)
        return np.clip(_piece(pictures, (shape[0], shape[1]), random) * tint, 0, 255)
    low, high = (0, max(behind - 50, 20)) if behind > 128 else (min(behind + 50, 235), 255)
    colour = random.uniform(low, high, 3).astype(np.float32)
    colour[random.integers(3)] = random.uniform(0, 255)
    shade = np.linspace(1.1, 0.8, shape[0], dtype=np.float32)[:, None, None]
    return np.clip(np.broadcast_to(colour, (*shape, 3)) * shade, 0, 255)
