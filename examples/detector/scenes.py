"""Photographs with handwritten digits pasted in, and the digits' true boxes.

The photographs are those that scikit-image and scikit-learn ship, the digits scikit-learn's. Those
of the test images are others than those of the training images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "coffee.png",
    "gravel.png",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "china.jpg",
)
TEST_PHOTOS = ("camera.png", "chelsea.png", "coins.png", "grass.png", "rocket.jpg", "flower.jpg")

LABELS = tuple("0123456789")
_TEST_DIGITS = 400  # the last of scikit-learn's 1,797, written by other people than the first


@dataclass(frozen=True)
class Scene:
    """One image: uint8 RGB pixels, corners (N, 4) of the digits in pixels, their classes (N,)."""

    pixels: UInt8Array
    boxes: FloatArray
    classes: npt.NDArray[np.int64]


def scenes(split: str, side: int, seed: int = 0) -> Iterator[Scene]:
    """Yield endless square images of `side` pixels, made of the ``train`` or the ``test`` parts."""
    photos, digits, classes = read_photos(split), *cut_digits(split)
    random = np.random.default_rng(seed)
    while True:
        pixels = background(photos[random.integers(len(photos))], side, random)
        placed: list[tuple[float, ...]] = []
        found: list[int] = []
        for index in random.integers(len(digits), size=random.integers(3, 6)).tolist():
            ink = _ink(digits[index], side, random)
            corner = _free_place(ink.shape, side, placed, random)
            if corner is not None:
                placed.append(_paste(pixels, ink, corner, random))
                found.append(int(classes[index]))
        yield Scene(
            pixels.round().astype(np.uint8),
            np.array(placed, np.float32).reshape(-1, 4),
            np.array(found, np.int64),
        )


def write_coco(folder: Path, split: str, count: int, side: int, seed: int) -> Path:
    """Write `count` scenes as PNG files into `folder`; return their COCO file, beside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, scene in zip(range(1, count + 1), scenes(split, side, seed), strict=False):
        Image.fromarray(scene.pixels).save(folder / f"{number:04d}.png")
        images.append(
            {"id": number, "file_name": f"{number:04d}.png", "height": side, "width": side}
        )
        for box, label in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            width, height = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [box[0], box[1], width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(LABELS)]
    path = folder.with_suffix(".json")
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def read_photos(split: str) -> list[Image.Image]:
    import skimage
    import sklearn

    folders = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.__file__).parent / "datasets" / "images",
    )
    names = TRAIN_PHOTOS if split == "train" else TEST_PHOTOS
    found = [next(path for f in folders if (path := f / name).is_file()) for name in names]
    photos = [Image.open(path).convert("RGB") for path in found]
    for photo in photos:
        photo.thumbnail((512, 512))
    return photos


def cut_digits(split: str) -> tuple[list[FloatArray], npt.NDArray[np.int64]]:
    """Return the ink of each digit, 0 to 1, cut at its edges, and the classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(None, -_TEST_DIGITS) if split == "train" else slice(-_TEST_DIGITS, None)
    cut = []
    for ink in digits.images[part].astype(np.float32) / 16:
        rows, columns = (np.flatnonzero(ink.max(axis) > 0.2) for axis in (1, 0))
        cut.append(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return cut, digits.target[part].astype(np.int64)


def background(photo: Image.Image, side: int, random: np.random.Generator) -> FloatArray:
    """Return a random square of `photo`, brought to `side`, maybe mirrored, lighter or darker."""
    edge = int(min(photo.size) * random.uniform(0.3, 1))
    left, top = (int(random.integers(0, length - edge + 1)) for length in photo.size)
    part = photo.resize(
        (side, side),
        Image.Resampling.BILINEAR,
        (left, top, left + edge, top + edge),
        reducing_gap=2,
    )
    pixels = np.asarray(part, np.float32)
    pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
    return np.clip(pixels * random.uniform(0.7, 1.2) + random.uniform(-20, 20), 0, 255)


def _ink(digit: FloatArray, side: int, random: np.random.Generator) -> FloatArray:
    """Return `digit` enlarged to a quarter to under a half of `side`."""
    height = side * random.uniform(0.25, 0.45)
    width = height * digit.shape[1] / digit.shape[0] * random.uniform(0.85, 1.2)
    size = (max(2, round(min(width, 0.6 * side))), max(2, round(height)))
    large = Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(large, np.float32) * 1.4 - 0.2, 0, 1)


def _free_place(
    shape: Sequence[int],
    side: int,
    placed: Sequence[tuple[float, ...]],
    random: np.random.Generator,
) -> tuple[int, int] | None:
    """Return where (x, y) something of `shape` touches nothing in `placed`; None if not found."""
    height, width = shape
    for _ in range(20):
        x, y = int(random.integers(0, side - width + 1)), int(random.integers(0, side - height + 1))
        if all(
            x >= x2 or x + width <= x1 or y >= y2 or y + height <= y1 for x1, y1, x2, y2 in placed
        ):
            return x, y
    return None


def _paste(
    pixels: FloatArray, ink: FloatArray, corner: tuple[int, int], random: np.random.Generator
) -> tuple[float, ...]:
    """Draw `ink` in a colour that differs from what is behind it; return its corners."""
    (x, y), (height, width) = corner, ink.shape
    behind = pixels[y : y + height, x : x + width]
    level = float(behind.mean())
    is_light = level < 100 or (level < 155 and random.random() < 0.5)
    shades = (min(level + 100, 240), 255) if is_light else (0, max(level - 100, 15))
    colour = random.uniform(*shades, 3)
    behind += ink[..., None] * (colour.astype(np.float32) - behind)
    return float(x), float(y), float(x + width), float(y + height)
