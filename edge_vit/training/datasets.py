"""Labelled images in memory: real handwritten digits, CIFAR, or any folder of class folders."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_vit.data.cifar import read_cifar
from edge_vit.data.class_names import in_order
from edge_vit.data.folder import list_folder
from edge_vit.data.images import FolderSource
from edge_vit.data.preprocess import preprocess
from edge_vit.data.registry import kind_of
from edge_vit.errors import ArtifactError, ImageError, ShapeError, SpecError
from edge_vit.files import write_atomically
from edge_vit.optional import require
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.maps.pictures import to_png

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

MAX_DATASET_BYTES = 8 * 2**30
"""Largest size of a data set in memory, all images at the model's size."""

DIGITS_HELD_OUT = 600  # of scikit-learn's 1,797 digits

FOLDER_HELD_OUT_SHARE = 0.2  # of a folder that has no ``val`` or ``test`` of its own

_HALF = (0.5, 0.5, 0.5)
_TIMEOUT_S, _CHUNK_BYTES = 30, 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file on the web; its MD5, as its authors publish it, is against damage, not malice."""

    url: str
    num_bytes: int
    md5: str

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    num_bytes=168_513_733,
    md5="03b5dce01913d631647c71ecec9e9cb8",
)


@dataclass(frozen=True)
class Dataset:
    """Images at the model's size, uint8 (N, H, W, 3) RGB, to train on, and others held out.

    `preprocess` is how they were brought to size, with the mean and std to normalise them by; the
    labels of images are class indices, (N,).
    """

    name: str
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    train_images: UInt8Array
    train_labels: Int64Array
    test_images: UInt8Array
    test_labels: Int64Array

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            wanted = (len(labels), *self.preprocess.image_size, 3)
            if images.dtype != np.uint8 or images.shape != wanted:
                raise ShapeError(
                    f"{part}_images of {self.name}: got {images.dtype} {images.shape}, "
                    f"expected uint8 {wanted}"
                )
            if not len(labels):
                raise SpecError(f"{self.name} has no {part} images, expected some of every class")
            if labels.min() < 0 or labels.max() >= len(self.labels):
                raise SpecError(
                    f"{part}_labels of {self.name}: expected 0 to {len(self.labels) - 1}"
                )


def open_dataset(
    name_or_folder: str | Path, image_size: int, seed: int = 0, progress: Progress = SILENT
) -> Dataset:
    """Return the data set called ``digits`` or ``cifar100``, or the one in a folder.

    A folder holds class folders, or ``train`` and ``val`` (or ``test``) with class folders in
    each, or CIFAR-10 or CIFAR-100, in its archive or unpacked. ``cifar100`` by name is kept in the
    user's cache folder, and downloaded when first used.

    `image_size` is the side of the square images, in pixels; `seed` is of the split, where the data
    comes without one.
    """
    if name_or_folder == "digits":
        return load_digits(image_size, seed)
    if name_or_folder == "cifar100":
        root = _cache_folder() / "cifar100"
        return load_cifar(find_cifar(root) or download(CIFAR100, root, progress), image_size)
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise ArtifactError(
            f"data {name_or_folder}: no such folder, expected "
            "digits, cifar100 or a folder of class folders"
        )
    cifar = find_cifar(folder)
    if cifar is not None:
        return load_cifar(cifar, image_size)
    return load_class_folders(folder, image_size, seed, progress)


def load_digits(image_size: int = 32, seed: int = 0) -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits, 600 of them held out.

    The originals are 8×8 pixels of 17 grays (https://archive.ics.uci.edu/dataset/80); they are
    enlarged bicubically.
    """
    digits = require("sklearn.datasets", "the digits data set").load_digits()
    grays = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = _resize_all(np.repeat(grays[..., None], 3, axis=-1), image_size)
    labels = tuple(str(name) for name in digits.target_names)
    return _split("digits", labels, images, digits.target, DIGITS_HELD_OUT, seed)


def load_cifar(path: Path, image_size: int = 32) -> Dataset:
    """Return CIFAR at `path`, never extracted: 50,000 images to train on, 10,000 held out."""
    try:
        train, test = (read_cifar(path, of_training=of_training) for of_training in (True, False))
    except ImageError as error:
        raise ArtifactError(f"{error}. {_how_to_get(CIFAR100, path)}") from None
    if train is None or test is None:
        raise ArtifactError(
            f"{path} holds no CIFAR images to train on. {_how_to_get(CIFAR100, path)}"
        )
    return Dataset(
        f"cifar{len(test.names)}",
        test.names,
        preprocess_for(image_size),
        _resize_all(train.images, image_size),
        np.array(train.classes),
        _resize_all(test.images, image_size),
        np.array(test.classes),
    )


def find_cifar(root: Path) -> Path | None:
    """Return `root` where it holds CIFAR's files, or the archive in it; None for neither."""
    if root.is_dir() and kind_of(str(root)).name == "cifar":
        return root
    return next(iter(sorted(root.glob("cifar-*.tar.gz"))), None)


def download(archive: Archive, root: Path, progress: Progress = SILENT) -> Path:
    """Return the path in `root` that `archive` was downloaded to, size and MD5 checked."""
    data = bytearray()
    try:
        with (
            urllib.request.urlopen(archive.url, timeout=_TIMEOUT_S) as response,
            progress.step(f"downloading {archive.file_name} (bytes)", archive.num_bytes) as advance,
        ):
            while len(data) <= archive.num_bytes and (chunk := response.read(_CHUNK_BYTES)):
                data += chunk
                advance(len(chunk))
    except (OSError, HTTPException) as error:
        raise ArtifactError(
            f"cannot download {archive.url}: {error}. {_how_to_get(archive, root)}"
        ) from None
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if (len(data), md5) != (archive.num_bytes, archive.md5):
        raise ArtifactError(
            f"{archive.url}: got {len(data)} bytes with MD5 {md5}, expected {archive.num_bytes} "
            f"with {archive.md5}. {_how_to_get(archive, root)}"
        )
    path = root / archive.file_name
    write_atomically(path, bytes(data))
    return path


def load_class_folders(
    folder: Path, image_size: int, seed: int = 0, progress: Progress = SILENT
) -> Dataset:
    """Return the images in the class folders of `folder`, decoded and brought to size.

    Where ``train`` and ``val`` (or ``test``) are its folders, they are the split; else a fifth of
    each class is held out.
    """
    held_out = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not held_out or not (folder / "train").is_dir():
        labels, images, indices = _read_class_folders(folder, (), image_size, progress)
        num_held_out = round(len(images) * FOLDER_HELD_OUT_SHARE)
        return _split(folder.name, labels, images, indices, num_held_out, seed)
    labels, images, indices = _read_class_folders(folder / "train", (), image_size, progress)
    _, test_images, test_indices = _read_class_folders(held_out[0], labels, image_size, progress)
    spec = preprocess_for(image_size)
    return Dataset(folder.name, labels, spec, images, indices, test_images, test_indices)


def preprocess_for(image_size: int) -> PreprocessSpec:
    """Return how every data set here is brought to size: shorter side resized, centre kept."""
    return PreprocessSpec((image_size, image_size), "bicubic", 1.0, "center", _HALF, _HALF)


def write_class_folders(
    images: UInt8Array, labels: Int64Array, class_names: Sequence[str], folder: Path
) -> None:
    """Write `images` as ``folder/<class name>/<nnnn>.png``, numbered as they come."""
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty, expected a new folder. Remove it first")
    for name in class_names:
        if not name or name.startswith(".") or Path(name).name != name:
            raise SpecError(f"class name {name!r} cannot be the name of a folder")
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / class_names[label] / f"{number:04d}.png"
        write_atomically(path, to_png(Image.fromarray(pixels)))


def _read_class_folders(
    folder: Path, labels: tuple[str, ...], image_size: int, progress: Progress
) -> tuple[tuple[str, ...], UInt8Array, Int64Array]:
    """Return class names, images and class indices; `labels` are the classes, if known."""
    classes = list_folder(folder).classes
    if classes is None:
        raise SpecError(f"{folder} holds images, expected folders of images, one for each class")
    unknown = sorted(set(classes) - set(labels)) if labels else []
    if unknown:
        raise SpecError(f"{folder} has class {unknown[0]!r}, which the training images have not")
    labels = labels or in_order(classes)
    source = FolderSource(folder, labels)
    for note in source.notes:
        progress.note(note)
    _check_memory(str(folder), len(source), image_size)
    spec = preprocess_for(image_size)
    images = np.empty((len(source), image_size, image_size, 3), np.uint8)
    indices = np.empty(len(source), np.int64)
    with progress.step(f"reading {folder}", len(source)) as advance:
        for number, item in enumerate(source):
            images[number] = preprocess(item.pixels, spec)
            indices[number] = -1 if item.label is None else item.label
            advance(1)
    return labels, images, indices


def _resize_all(images: UInt8Array, image_size: int) -> UInt8Array:
    """Return square `images` (N, S, S, 3) as (N, image_size, image_size, 3)."""
    if images.shape[1:3] == (image_size, image_size):
        return images
    _check_memory("the data set", len(images), image_size)
    spec = preprocess_for(image_size)
    return np.stack([preprocess(pixels, spec) for pixels in images])


def _check_memory(name: str, num_images: int, image_size: int) -> None:
    needed = num_images * image_size**2 * 3
    if needed > MAX_DATASET_BYTES:
        raise SpecError(
            f"{name}: {num_images} images of {image_size}×{image_size} need "
            f"{needed / 2**30:.1f} GiB of memory, expected at most {MAX_DATASET_BYTES >> 30}. "
            "Take fewer images or a smaller --image-size"
        )


def _split(
    name: str,
    labels: tuple[str, ...],
    images: UInt8Array,
    indices: Int64Array,
    num_held_out: int,
    seed: int,
) -> Dataset:
    """Return `images` split at random, each class by the same share.

    Shuffled, then sorted by class, then every so-manyth held out: so the total is exact and each
    class is within one image of its share.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    order = order[np.argsort(indices[order], kind="stable")]
    is_held_out = np.zeros(len(order), bool)
    is_held_out[
        ((np.arange(num_held_out) + 0.5) * len(order) / max(num_held_out, 1)).astype(int)
    ] = True
    train, test = order[~is_held_out], order[is_held_out]
    spec = preprocess_for(images.shape[1])
    return Dataset(name, labels, spec, images[train], indices[train], images[test], indices[test])


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-vit"


def _how_to_get(archive: Archive, path: Path) -> str:
    root = path.parent if path.is_file() else path
    return f"Put {archive.file_name} (from {archive.url}) into {root}"
