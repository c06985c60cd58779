"""Images that one file names or holds: a list of paths, a table of them, an array of NumPy's."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.preprocess import UInt8Array

LIST_SUFFIX, TABLE_SUFFIX = ".txt", ".csv"
ARRAY_SUFFIXES = (".npy", ".npz")
IMAGES_KEY, LABELS_KEY = "images", "labels"


def read_list(path: Path) -> list[Path]:
    """Return the image paths in a text file, one a line; empty lines and ``#`` lines are left out.

    Relative paths start at the list's folder.

    Raises:
        ImageError: the file is no text, names no image, or names one that is not there.
    """
    refuse_lfs_pointer(path, ImageError)
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


def read_table(path: Path, labels: Sequence[str] = ()) -> tuple[list[Path], list[int] | None]:
    """Return the image paths in a ``.csv`` file and the class index of each, where it says them.

    One image a line: its path, and where it is known its class, by name or by index. A first line
    ``path,label`` is left out. Relative paths start at the table's folder.

    Args:
        path: of the table.
        labels: the model's class names; a class that is none of them has to be an index.

    Raises:
        ImageError: the file is no such table, or an image is not there.
    """
    refuse_lfs_pointer(path, ImageError)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(
            f"image table {path} cannot be read: {error}. Write one image a line: path,label"
        ) from None
    paths, classes = [], []
    index = {name: place for place, name in enumerate(labels)}
    for number, row in enumerate(rows, 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and cells in (["path"], ["path", "label"])):
            continue
        where = f"image table {path}, line {number}"
        if len(cells) > 2:
            raise ImageError(f"{where}: got {len(cells)} cells, expected path,label or path")
        if not (path.parent / cells[0]).is_file():
            raise ImageError(
                f"{where}: {path.parent / cells[0]} does not exist or is no file. "
                "Paths start at the table's folder"
            )
        paths.append(path.parent / cells[0])
        if len(cells) == 2 and cells[1]:
            classes.append(_class_of(cells[1], index, where))
    if not paths:
        raise ImageError(f"image table {path} names no image, expected one a line: path,label")
    if classes and len(classes) != len(paths):
        raise ImageError(
            f"image table {path}: {len(classes)} of {len(paths)} images have a label, "
            "expected all or none"
        )
    return paths, classes or None


def _class_of(word: str, index: Mapping[str, int], where: str) -> int:
    if word in index:
        return index[word]
    if not word.isdecimal():
        known = f"one of the model's {len(index)} labels or " if index else ""
        raise ImageError(f"{where}: label {word!r}, expected {known}a class index")
    return int(word)


def read_array(path: Path) -> tuple[UInt8Array, list[int] | None]:
    """Return the images of a ``.npy`` or ``.npz`` file, uint8 (N, H, W, 3) RGB, and their labels.

    A ``.npy`` file stays on the disk until an image's turn comes. A ``.npz`` file holds `images`,
    and `labels` (N,) where they are known.

    Raises:
        ImageError: the file is damaged, or holds something else.
    """
    refuse_lfs_pointer(path, ImageError)
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
