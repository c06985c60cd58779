"""Images that one file names or holds: a list of paths, or an array of NumPy's."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from edge_vit.errors import ImageError
from edge_vit.preprocess import UInt8Array

LIST_SUFFIX = ".txt"
ARRAY_SUFFIXES = (".npy", ".npz")
IMAGES_KEY, LABELS_KEY = "images", "labels"


def read_list(path: Path) -> list[Path]:
    """Return the image paths in a text file, one a line; empty lines and ``#`` lines are left out.

    Relative paths start at the list's folder.

    Raises:
        ImageError: the file is no text, names no image, or names one that is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(
            f"image list {path} cannot be read as text: {error}. Write one image path a line"
        ) from None
    paths = []
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        paths.append(path.parent / name)
        if not paths[-1].is_file():
            raise ImageError(
                f"image list {path}, line {number}: {paths[-1]} does not exist or is no file. "
                "Paths start at the list's folder"
            )
    if not paths:
        raise ImageError(f"image list {path} names no image, expected one path a line")
    return paths


def read_array(path: Path) -> tuple[UInt8Array, list[int] | None]:
    """Return the images of a ``.npy`` or ``.npz`` file, uint8 (N, H, W, 3) RGB, and their labels.

    A ``.npy`` file stays on the disk until an image's turn comes. A ``.npz`` file holds `images`,
    and `labels` (N,) where they are known.

    Raises:
        ImageError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix.lower() == ".npy":
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays[IMAGES_KEY], arrays.get(LABELS_KEY)
    except KeyError:
        raise ImageError(
            f"image array {path} holds no {IMAGES_KEY!r}. "
            f"Save it with: numpy.savez(PATH, {IMAGES_KEY}=..., {LABELS_KEY}=...)"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"image array {path} cannot be read: {reason}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ImageError(
            f"image array {path}: got {images.dtype} {images.shape}, "
            "expected uint8 (N, H, W, 3), RGB from 0 to 255"
        )
    if labels is None:
        return images, None
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ImageError(
            f"image array {path}: labels are {labels.dtype} {labels.shape}, "
            f"expected {len(images)} class indices"
        )
    return images, [int(label) for label in labels]
