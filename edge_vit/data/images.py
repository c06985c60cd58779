"""Images in files, folders and arrays, and the one function that opens any source of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import cast

from edge_vit.data.bad_images import MaxBad, tolerate
from edge_vit.data.decoding import is_image
from edge_vit.data.decoding import load_image as load_image
from edge_vit.data.folder import list_folder, match_folders
from edge_vit.data.imagenet import flat_truth
from edge_vit.data.preprocess import UInt8Array, check_image
from edge_vit.data.registry import IMAGE_SUFFIXES, TABLE_SUFFIXES, hide_user, kind_of
from edge_vit.data.source import ImageItem as ImageItem
from edge_vit.data.source import ImageSource as ImageSource
from edge_vit.data.source import Wanted, limit_images, spread
from edge_vit.errors import ImageError, ShapeError, SpecError
from edge_vit.plugins import import_target
from edge_vit.printable import one_line

_KEY_BYTES = 4096
_ARCHIVES = {
    ".zip": "unzip {0} -d {1}",
    ".7z": "7z x {0} -o{1}",
    ".rar": "unrar x {0} {1}/",
    **dict.fromkeys(
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"),
        "mkdir {1} && tar xf {0} -C {1}",
    ),
}
"""Suffix of an archive -> the command that unpacks it."""

_DATA_FILES = (
    ".json .jsonl .ndjson .xml .yaml .yml .xlsx .xls .ods .parquet .feather .arrow .pkl .pickle "
    ".h5 .hdf5 .tfrecord .tfrecords .lmdb .mat .rec .lst .md .html"
)
"""Suffixes of files that list or hold images in ways that are not read."""


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    label: int | None


class FileSource:
    """Images of `paths`, in that order; each is decoded when its turn comes."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
        notes: Sequence[str] = (),
        names: Sequence[str] | None = None,
    ) -> None:
        known: Sequence[int | None] = [None] * len(paths) if image_labels is None else image_labels
        self._files = [
            _File(Path(path), one_line(name), label)
            for path, name, label in zip(paths, names or map(str, paths), known, strict=True)
        ]
        self.labels = tuple(labels)
        self.has_labels = image_labels is not None
        self.notes = tuple(map(one_line, notes))

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

    1. that of the folder's name in `labels`, letter by letter, else without regard to case, to
       Unicode's composition and to spaces, underscores and hyphens: every folder has to be a label;
    2. the number that the folder is called, where all are numbers from 0 on, without gaps;
    3. the folder's place among the sorted names, as torchvision's `ImageFolder` counts, where not
       one is a label, or like one, and there are as many folders as classes.

    `notes` says which it was. An empty class folder keeps its place. Folders that are called like
    the parts of a data set, such as ``train`` and ``val``, are refused.

    Class folders that are called by synset, and a flat folder beside a list of the truth, are read
    as ImageNet comes: see `edge_vit.data.imagenet`. Anything else is refused, images beside class
    folders too. Hidden files and folders, whose names start with a dot, are left out, as is what
    systems put into folders; other files that are not read are counted in `notes`.

    Args:
        path: the folder.
        labels: the model's class names; empty where they are not known.
        limit: take this many images at most, spread evenly over the sorted list, and so over the
            classes.
        num_classes: of the model, where it is known.
        has_truth: whether classes are wanted; else folders are no classes.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, mixes images and class
            folders, or has class folders that do not fit the model.
        SpecError: `limit` is below 1.
    """

    def __init__(
        self,
        path: str | Path,
        labels: Sequence[str] = (),
        limit: int | None = None,
        *,
        num_classes: int | None = None,
        has_truth: bool = True,
    ) -> None:
        folder = Path(path)
        listing = list_folder(folder)
        num_classes = len(labels) or num_classes
        truth: Sequence[int] | None = None
        names: Sequence[str] = ()
        notes = listing.notes
        if has_truth and listing.classes is not None:
            matched = match_folders(folder, listing, labels, num_classes)
            notes += listing.emptied
            if matched.indices:
                truth = [matched.indices[path.parts[0]] for path in listing.paths]
                names = tuple(labels) or _names_by_index(matched.indices)
            notes += matched.notes
        elif has_truth:
            truth, said = flat_truth(folder, listing.paths, num_classes)
            notes += said
            names = labels if truth else ()
        chosen = spread(len(listing.paths), limit)
        paths = list(compress(listing.paths, chosen))
        super().__init__(
            [folder / path for path in paths],
            None if truth is None else list(compress(truth, chosen)),
            names,
            notes,
            [path.as_posix() for path in paths],
        )


class ArraySource:
    """Images that are already in memory; they are handed out as they are, not copied.

    Args:
        images: uint8 (N, H, W, 3) RGB, or N arrays (H, W, 3) of any sizes.
        image_labels: index of each image's class, N numbers; None where they are not known.
        labels: class names by index.
        notes: sentences about how the images were found.

    Raises:
        ShapeError: an image is no uint8 (H, W, 3) array, or there are not as many labels as images.
    """

    def __init__(
        self,
        images: UInt8Array | Sequence[UInt8Array],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
        notes: Sequence[str] = (),
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
        self.notes = tuple(map(one_line, notes))

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
    source: str | Path | ImageSource,
    labels: Sequence[str] = (),
    limit: int | None = None,
    *,
    num_classes: int | None = None,
    has_truth: bool = True,
    max_bad: MaxBad | None = None,
) -> ImageSource:
    """Return the images of a folder, of a file, or of a source that was made elsewhere.

    Args:
        source: path of a folder, of an image, of a ``.txt`` list or ``.csv`` or ``.tsv`` table of
            images, of a ``.npy`` or ``.npz`` array, of CIFAR's archive or what was in it, or of a
            video; or a source, whose own labels are kept.
        labels: the model's class names, for class folders and tables: see `FolderSource`.
        limit: take this many images at most, spread evenly.
        num_classes: of the model, where it is known.
        has_truth: whether classes are wanted; else names of folders and tables are no classes.
        max_bad: how many images may be left out because they cannot be read; None to refuse the
            first, when its turn comes.

    Raises:
        ImageError: there is nothing at the path, or it does not fit the model: see `FolderSource`.
        SpecError: `limit` is below 1, or `source` is something else.
    """
    if isinstance(source, str | Path):
        address = str(source)
        kind = kind_of(address)
        if not kind.images:
            raise SpecError(
                f"source {hide_user(address)} is {kind.help}, and images are wanted. Keep some of "
                "its frames: edgevit calibrate BUNDLE --from-camera ADDRESS --keep-frames DIR"
            )
        wanted = Wanted(tuple(labels), num_classes, limit, has_truth)
        source = cast(
            ImageSource, import_target(kind.images)(address.removeprefix("file://"), wanted)
        )
    elif not isinstance(source, ImageSource):
        raise SpecError(
            f"images: got {type(source).__name__}, expected the path of a folder or of an image, "
            "or an ImageSource such as edge_vit.data.images.ArraySource"
        )
    if limit is not None and not 1 <= len(source) <= limit:
        source = limit_images(source, limit)
    return tolerate(source, max_bad)


def open_folder(address: str, wanted: Wanted) -> FileSource:
    """Return the images of a folder: see `FolderSource`; of one with ``labels``, `open_yolo`."""
    from edge_vit.data import annotated  # which makes sources of files, as this module does

    if annotated.is_yolo(Path(address)):
        return annotated.open_yolo(address, wanted)
    return FolderSource(
        address,
        wanted.labels,
        wanted.limit,
        num_classes=wanted.num_classes,
        has_truth=wanted.has_truth,
    )


def open_image(address: str, wanted: Wanted) -> FileSource:
    """Return the one image in a file, or refuse a file that is none.

    Raises:
        ImageError: by its name and its beginning the file is something else.
    """
    path = Path(address)
    suffix = path.suffix.lower()
    if path.name.lower().endswith(tuple(_ARCHIVES)):
        raise archive_error(path)
    if suffix in _DATA_FILES.split():
        raise ImageError(
            f"{path} is no image and no list that can be read, expected a folder, or a .csv table "
            "with one image a line: path,label"
        )
    if suffix not in IMAGE_SUFFIXES and not is_image(path, with_bmp=True):
        raise ImageError(
            f"{path} is not a JPEG, PNG, WebP or BMP file, and lists of images end in "
            f"{', '.join(TABLE_SUFFIXES)}: rename it if it is one"
        )
    return FileSource([path])


def archive_error(path: Path) -> ImageError:
    """Return the error about a file that has to be unpacked."""
    ending = next(ending for ending in _ARCHIVES if path.name.lower().endswith(ending))
    folder = path.with_name(path.name[: -len(ending)])
    return ImageError(
        f"{path} is an archive, expected a folder, a list or an image. "
        f"Unpack it and pass the folder: {_ARCHIVES[ending].format(path, folder)}"
    )


def _names_by_index(indices: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the classes by index; none where they are not all there."""
    names = {index: one_line(name) for name, index in indices.items()}
    is_complete = set(names) == set(range(len(names)))
    return tuple(names[index] for index in range(len(names))) if is_complete else ()
