"""Images in, one at a time: safe decoding, and folders or arrays behind one protocol."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_vit.errors import ImageError, ShapeError, SpecError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.image_cifar import map_classes, read_cifar
from edge_vit.image_folder import list_folder, spread
from edge_vit.image_lists import (
    ARRAY_SUFFIXES,
    LIST_SUFFIX,
    TABLE_SUFFIX,
    read_array,
    read_list,
    read_table,
)
from edge_vit.image_net import flat_truth
from edge_vit.image_parts import limit_images
from edge_vit.preprocess import UInt8Array, check_image
from edge_vit.video import VIDEO_SUFFIXES, VideoSource

MAX_PIXELS = 50_000_000
"""Largest image that is decoded: a file of a hundred bytes can claim a thousand times as many."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_EXIF_ORIENTATION = 0x0112
_KEY_BYTES = 4096
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One decoded image.

    Attributes:
        name: how people find it: the path below the folder, such as ``cat/001.jpg``.
        pixels: uint8 (H, W, 3) RGB, upright.
        label: index of its class, or None where it is not known.
    """

    name: str
    pixels: UInt8Array
    label: int | None


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order; iterating twice gives the same images twice."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names that the items' labels index; empty where the names are not known."""

    @property
    def has_labels(self) -> bool:
        """Whether every item has a label."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageItem]: ...


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: int | None


class FileSource:
    """Images of `paths`, in that order; each is decoded when its turn comes.

    Args:
        paths: of the files.
        image_labels: index of each image's class; None where they are not known.
        labels: class names by index.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        known: Sequence[int | None] = [None] * len(paths) if image_labels is None else image_labels
        self._files = [
            _File(Path(path), str(path), label) for path, label in zip(paths, known, strict=True)
        ]
        self.labels = tuple(labels)
        self.has_labels = image_labels is not None

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self._files)))

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded."""
        file = self._files[index]
        return ImageItem(file.name, load_image(file.path), file.label)

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._files[index].name

    def content_key(self, index: int) -> bytes:
        """Return the file's size, its beginning and its end, which tell any two images apart.

        Raises:
            ImageError: the file cannot be read.
        """
        path = self._files[index].path
        try:
            with path.open("rb") as file:
                head = file.read(_KEY_BYTES)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _KEY_BYTES))
                return b"%d " % size + head + file.read()
        except OSError as error:
            raise ImageError(f"image {path} cannot be read: {error.strerror}") from None


class FolderSource(FileSource):
    """Images of a folder, sorted by path: flat, without labels, or in class folders, with labels.

    Folders in `path` are class folders, each searched to any depth. So ``photos/2024/a.jpg`` is an
    image of class ``2024``: nothing in a path tells a year from a class. The index of a class is

    1. that of the folder's name in `labels`, where every folder is named after a label;
    2. else the folder's place among the sorted names, as torchvision's `ImageFolder` counts, where
       `labels` is empty or as long as there are folders. An empty class folder keeps its place.

    Class folders that are called by synset, and a flat folder beside a list of the truth, are read
    as ImageNet comes: see `edge_vit.image_net`. Anything else is refused, images beside class
    folders too. Hidden files and folders, whose names start with a dot, are left out.

    Args:
        path: the folder.
        labels: the model's class names; empty where they are not known, or nobody asks for labels.
        limit: take this many images at most, spread evenly over the sorted list, and so over the
            classes.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, mixes images and class
            folders, or has class folders that do not fit `labels`.
        SpecError: `limit` is below 1.
    """

    def __init__(
        self, path: str | Path, labels: Sequence[str] = (), limit: int | None = None
    ) -> None:
        folder = Path(path)
        paths, indices = list_folder(folder, labels)
        truth = [indices[path.parts[0]] for path in paths] if indices else flat_truth(folder, paths)
        self.has_labels = truth is not None
        self.labels = tuple(labels) or tuple(indices or ()) if self.has_labels else ()
        known: Sequence[int | None] = truth or [None] * len(paths)
        files = [
            _File(folder / path, path.as_posix(), label)
            for path, label in zip(paths, known, strict=True)
        ]
        self._files = list(compress(files, spread(len(files), limit)))


class ArraySource:
    """Images that are already in memory; they are handed out as they are, not copied.

    Args:
        images: uint8 (N, H, W, 3) RGB, or N arrays (H, W, 3) of any sizes.
        image_labels: index of each image's class, N numbers; None where they are not known.
        labels: class names by index.

    Raises:
        ShapeError: an image is no uint8 (H, W, 3) array, or there are not as many labels as images.
    """

    def __init__(
        self,
        images: UInt8Array | Sequence[UInt8Array],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        for index, pixels in enumerate(images):
            check_image(pixels, f"images[{index}]")
        if image_labels is not None and len(image_labels) != len(images):
            raise ShapeError(
                f"image_labels: got {len(image_labels)}, expected {len(images)}, one per image"
            )
        self._images = images
        self._image_labels = image_labels
        self.labels = tuple(labels)
        self.has_labels = image_labels is not None

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self._images)))

    def item(self, index: int) -> ImageItem:
        """Return one image."""
        label = None if self._image_labels is None else int(self._image_labels[index])
        return ImageItem(self.name(index), self._images[index], label)

    def name(self, index: int) -> str:
        """Return the name of one image: its place."""
        return f"{index:05d}"

    def content_key(self, index: int) -> bytes:
        """Return one image's pixels."""
        return self._images[index].tobytes()


def open_image_source(
    source: str | Path | ImageSource, labels: Sequence[str] = (), limit: int | None = None
) -> ImageSource:
    """Return the images of a folder, of a file, or of a source that was made elsewhere.

    Args:
        source: path of a folder, of an image, of a ``.txt`` list or ``.csv`` table of images, of a
            ``.npy`` or ``.npz`` array, of CIFAR's archive or what was in it, or of a video; or a
            source, whose own labels are kept.
        labels: the model's class names, for class folders: see `FolderSource`.
        limit: take this many images at most, spread evenly.

    Raises:
        ImageError: there is nothing at the path, or the folder does not fit: see `FolderSource`.
        SpecError: `limit` is below 1, or `source` is something else.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        cifar = read_cifar(path)
        if cifar is not None:
            found = map_classes(cifar, tuple(labels), path)
            source = ArraySource(found.images, found.classes, found.names)
        elif not path.is_file():
            return FolderSource(path, labels, limit)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            return VideoSource(path, limit)
        else:
            source = _open_file(path, labels)
    if not isinstance(source, ImageSource):
        raise SpecError(
            f"images: got {type(source).__name__}, expected the path of a folder or of an image, "
            "or an ImageSource such as edge_vit.images.ArraySource"
        )
    return source if limit is None else limit_images(source, limit)


def _open_file(path: Path, labels: Sequence[str]) -> ImageSource:
    if path.suffix.lower() in ARRAY_SUFFIXES:
        images, image_labels = read_array(path)
        return ArraySource(images, image_labels, labels)
    if path.suffix.lower() == TABLE_SUFFIX:
        paths, classes = read_table(path, labels)
        return FileSource(paths, classes, labels if classes is not None else ())
    return FileSource(read_list(path) if path.suffix.lower() == LIST_SUFFIX else [path])


def load_image(path: str | Path) -> UInt8Array:
    """Return the image at `path` as uint8 (H, W, 3) RGB, upright as its EXIF orientation says.

    Reads JPEG, PNG, WebP and BMP, whatever the file's name; of an animation the first frame. Alpha
    is dropped, not blended, as timm's and torchvision's loaders do.

    Raises:
        ImageError: the file is missing, damaged, of another format, or above `MAX_PIXELS`.
    """
    if not Path(path).is_file():
        raise ImageError(f"image {path} does not exist or is not a file. Check the path")
    try:
        with warnings.catch_warnings():
            # Pillow warns of some images that are above our own limit anyway: one line is enough.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return _to_rgb(_upright(image, path))
    except Image.DecompressionBombError:
        raise ImageError(
            f"image {path} claims more than {MAX_PIXELS // 10**6} megapixels and was not decoded. "
            "Scale it down first"
        ) from None
    except UnidentifiedImageError:
        refuse_lfs_pointer(Path(path), ImageError)
        raise ImageError(
            f"image {path} is not a JPEG, PNG, WebP or BMP file, or its header is damaged"
        ) from None
    except Exception as error:  # decoders that are fed damaged bytes raise whatever they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"image {path} cannot be decoded: {reason}") from None


def _upright(image: Image.Image, path: str | Path) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    image.load()  # first, so that damaged pixels are not taken for a damaged EXIF block
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception as error:
        _log.warning("image %s: its EXIF data is damaged (%s), taken as upright", path, error)
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> UInt8Array:
    """The pixels of an image of any mode that `_FORMATS` decode to, as uint8 (H, W, 3) RGB."""
    if image.mode.startswith("I"):
        # 16-bit gray, mode I in older Pillow. Its own convert clips values at 255, and nearly every
        # pixel turns white; of 16-bit colour it keeps the upper byte, so we do that here too.
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns
    return np.array(image.convert("RGB"))
