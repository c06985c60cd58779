"""Images in files, folders and arrays, and the one function that opens any source of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge_vit.data.bad_images import MaxBad, tolerate
from edge_vit.data.clips import find_clips, read_clip
from edge_vit.data.decoding import is_image
from edge_vit.data.decoding import load_image as load_image
from edge_vit.data.folder import is_image_file, list_folder, match_folders
from edge_vit.data.preprocess import UInt8Array, check_pixels
from edge_vit.data.registry import IMAGE_SUFFIXES, TABLE_SUFFIXES, hide_user, kind_of
from edge_vit.data.samples import open_samples, refuse_images
from edge_vit.data.source import ImageItem as ImageItem
from edge_vit.data.source import ImageSource as ImageSource
from edge_vit.data.source import NotedSource, Wanted, limit_images
from edge_vit.data.text_lines import shorten
from edge_vit.errors import ImageError, ShapeError, SpecError
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.plugins import import_target
from edge_vit.printable import one_line
from edge_vit.spec import ClipSpec, ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Run, TruthFiles
from edge_vit.tasks.label_sets import LabelSet

_KEY_BYTES = 4096
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def load_pixels(path: str | Path, clip: ClipSpec | None = None) -> UInt8Array:
    """Return the image at `path`, (H, W, 3), or with a `clip` its frames, (frames, H, W, 3)."""
    return load_image(path) if clip is None else read_clip(path, clip)


class FileSource(NotedSource):
    """Images of `paths`, or clips with a `clip`, in that order; each is decoded in its turn."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
        notes: Sequence[str] = (),
        names: Sequence[str] | None = None,
        clip: ClipSpec | None = None,
    ) -> None:
        super().__init__(labels, image_labels is not None, notes)
        self._clip = clip
        self._paths = list(map(Path, paths))
        self._names = list(map(one_line, names or map(str, paths)))
        self._image_labels = image_labels

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self)))

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded."""
        label = None if self._image_labels is None else self._image_labels[index]
        return ImageItem(self._names[index], load_pixels(self._paths[index], self._clip), label)

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._names[index]

    def content_key(self, index: int) -> bytes:
        """Return the file's size, its beginning and its end, which tell any two images apart."""
        path = self._paths[index]
        if path.is_dir():
            path = min(filter(is_image_file, path.iterdir()), default=path)  # a clip's first frame
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

    Folders in `path` are class folders, searched to any depth: ``photos/2024/a.jpg`` is an image
    of class ``2024``. The index of a class is

    1. that of the folder's name in `labels`, letter by letter, else without regard to case, to
       Unicode's composition and to spaces, underscores and hyphens: every folder has to be a label;
    2. for ImageNet's synsets, ``n01440764``, their place in a mapping file beside or above them;
    3. the number that the folder is called, where all are numbers from 0 on, without gaps;
    4. the folder's place among the sorted names, as torchvision's `ImageFolder` counts, where not
       one is a label, or like one, and there are as many folders as classes.

    `notes` has the rule that was taken, and counts files that are not read. An empty class folder
    keeps its place. Folders that are called like the parts of a data set, such as ``train`` and
    ``val``, are refused, as are images beside class folders. Hidden files and folders are left out.

    The model's class names, or at least their number, are known for 1 and 4; without `has_truth`
    folders are no classes. With a `clip` the images are clips: see `edge_vit.data.clips`.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, mixes images and class
            folders, or has class folders that do not fit the model.
    """

    def __init__(
        self,
        path: str | Path,
        labels: Sequence[str] = (),
        *,
        num_classes: int | None = None,
        has_truth: bool = True,
        clip: ClipSpec | None = None,
    ) -> None:
        folder = Path(path)
        listing = list_folder(folder, find_clips if clip else None)
        truth: Sequence[int] | None = None
        names: Sequence[str] = ()
        notes = listing.notes
        if has_truth and listing.classes is not None:
            matched = match_folders(folder, listing, labels, num_classes)
            notes += (*listing.emptied, *matched.notes)
            if matched.indices:
                truth = [matched.indices[path.parts[0]] for path in listing.paths]
                names = tuple(labels) or _names_by_index(matched.indices)
        elif has_truth and clip is not None:
            notes += _note_frames(folder, listing.paths)
        paths = [folder / path for path in listing.paths]
        shown = [path.as_posix() for path in listing.paths]
        super().__init__(paths, truth, names, notes, shown, clip)


def _note_frames(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a sentence where clips are folders of images, which somebody may take for classes."""
    own = [path.as_posix() for path in paths if (folder / path).is_dir() and path.name]
    if not own:
        return ()
    shown = ", ".join(own[:3]) + (", ..." if len(own) > 3 else "")
    return (
        f"Each folder of images in {folder} ({shown}) is read as one clip, its images as frames. A "
        "class folder holds videos instead, or a folder of frames for each clip.",
    )


class ArraySource(NotedSource):
    """Images in memory, uint8 (N, H, W, 3) RGB, or N arrays (H, W, 3) of any sizes; not copied.

    Clips have their frames behind the first axis.
    `image_labels` holds the index of each image's class, `truth` what else is true of each.
    """

    def __init__(
        self,
        images: UInt8Array | Sequence[UInt8Array],
        image_labels: Sequence[int] | None = None,
        labels: Sequence[str] = (),
        notes: Sequence[str] = (),
        truth: Sequence[object] | None = None,
    ) -> None:
        for index, pixels in enumerate(images):
            check_pixels(pixels, f"images[{index}]")
        if image_labels is not None and len(image_labels) != len(images):
            raise ShapeError(
                f"image_labels: got {len(image_labels)}, expected {len(images)}, one per image"
            )
        super().__init__(labels, image_labels is not None, notes)
        self._images, self._image_labels, self._truth = images, image_labels, truth

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self.item, range(len(self._images)))

    def item(self, index: int) -> ImageItem:
        """Return one image."""
        label = None if self._image_labels is None else int(self._image_labels[index])
        truth = None if self._truth is None else self._truth[index]
        return ImageItem(self.name(index), self._images[index], label, truth)

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
    truth: TruthFiles | None = None,
    has_label_sets: bool = False,
    max_bad: MaxBad | None = None,
    clip: ClipSpec | None = None,
    spec: ModelSpec | None = None,
    run: Run | None = None,
) -> ImageSource:
    """Return the images of a folder, of a file, or of a source that was made elsewhere.

    `source` is an address of any of `edge_vit.data.registry.SHIPPED`; or a source, whose own labels
    are kept. The others are as in `Wanted`; with the `spec` of a model its labels, its clip and the
    truth of its task need not be named. Without `max_bad` the first image that cannot be read is
    refused, when its turn comes.

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
        takes_images = spec is None or spec.takes_images
        if not takes_images and not kind.holds_samples:
            raise refuse_images(address, spec)
        if spec is not None:
            clip = spec.preprocess.clip
        if spec is not None and has_truth:
            task = task_of(spec)
            labels, num_classes = spec.labels, task.num_classes(spec)
            truth, has_label_sets = task.truth_files(spec), task.has_label_sets
            has_truth = task.reads_class_folders
        wanted = Wanted(
            tuple(labels),
            num_classes,
            limit,
            has_truth=has_truth,
            truth=truth,
            clip=clip,
            has_label_sets=has_label_sets,
            spec=None if takes_images else spec,
            run=run,
        )
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
    """Return the images of a folder: see `FolderSource`.

    Where they lie in ``images``, with their truth beside it, see `edge_vit.data.annotated`.
    """
    from edge_vit.data import annotated  # which makes sources of files, as this module does

    if wanted.clip is None and annotated.has_pairs(Path(address), wanted.truth):
        return annotated.open_pairs(address, wanted)
    if wanted.clip is None and annotated.is_yolo(Path(address)):
        return annotated.open_yolo(address, wanted)
    return FolderSource(
        address,
        wanted.labels,
        num_classes=wanted.num_classes,
        has_truth=wanted.has_truth,
        clip=wanted.clip,
    )


def open_image(address: str, wanted: Wanted) -> FileSource:
    """Return the one image in a file, or refuse a file that is none."""
    path = Path(address)
    if path.name.lower().endswith(_ARCHIVES):
        raise archive_error(path)
    if wanted.clip is not None:
        return FileSource([path], clip=wanted.clip)
    if path.suffix.lower() not in IMAGE_SUFFIXES and not is_image(path, with_bmp=True):
        raise ImageError(
            f"{path} is no JPEG, PNG, WebP or BMP file, expected an image, a folder, or a list in "
            f"{', '.join(TABLE_SUFFIXES)}, with one image a line: path,label"
        )
    return FileSource([path])


def open_array(address: str, wanted: Wanted) -> NotedSource:
    """Return the images of a ``.npy`` or ``.npz`` file, and their labels.

    A ``.npy`` file stays on the disk until an image's turn comes. A ``.npz`` file holds `images`,
    uint8 (N, H, W, 3) RGB, and class indices `labels` (N,) where they are known; or, for a model
    that takes no images, an array for each of its inputs.
    """
    path = Path(address)
    if wanted.spec is not None:
        return open_samples(path, wanted.spec)
    num_classes = (len(wanted.labels) or wanted.num_classes) if wanted.has_truth else None
    refuse_lfs_pointer(path, ImageError)
    try:
        if path.suffix.lower() == ".npy":
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays["images"], arrays.get("labels")
    except KeyError:
        raise ImageError(
            f"image array {path} holds no 'images'. "
            "Save it with: numpy.savez(PATH, images=..., labels=...)"
        ) from None
    except Exception as error:  # what is read was made elsewhere, and may be anything
        reason = shorten(" ".join(str(error).split())) or type(error).__name__
        raise ImageError(f"image array {path} cannot be read: {reason}") from None
    rank, axes = (4, "") if wanted.clip is None else (5, "frames, ")
    if images.dtype != np.uint8 or images.ndim != rank or images.shape[-1] != 3 or not images.size:
        got = f"{images.dtype} {images.shape}"
        raise ImageError(f"image array {path}: got {got}, expected uint8 (N, {axes}H, W, 3) RGB")
    if labels is None:
        return ArraySource(images, labels=wanted.labels)
    if wanted.has_label_sets and labels.ndim == 2:
        return ArraySource(
            images, labels=wanted.labels, truth=_label_sets(path, len(images), labels, wanted)
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ImageError(
            f"image array {path}: labels are {labels.dtype} {labels.shape}, "
            f"expected {len(images)} class indices"
        )
    if num_classes and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ImageError(
            f"image array {path}: labels from {labels.min()} to {labels.max()}, expected class "
            f"indices of the model, 0 to {num_classes - 1}"
        )
    return ArraySource(images, [int(label) for label in labels], wanted.labels)


def _label_sets(path: Path, count: int, labels: Any, wanted: Wanted) -> list[LabelSet]:
    """The labels that are on in each row of `labels`, (N, labels) of 0 and 1."""
    width = len(wanted.labels) or wanted.num_classes
    if labels.shape != (count, width) or not np.isin(labels, (0, 1)).all():
        raise ImageError(
            f"image array {path}: labels are {labels.dtype} {labels.shape}, expected 0 or 1 for "
            f"each of {count} images and of the {width} labels of the model"
        )
    return [LabelSet(frozenset(np.flatnonzero(row).tolist())) for row in labels]


def archive_error(path: Path) -> ImageError:
    """Return the error about a file that has to be unpacked."""
    unpack = {".zip": "unzip", ".7z": "7z x", ".rar": "unrar x"}.get(path.suffix.lower(), "tar xf")
    return ImageError(
        f"{path} is an archive, expected a folder, a list or an image. "
        f"Unpack it and pass the folder: {unpack} {path}"
    )


def _names_by_index(indices: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the classes by index; none where they are not all there."""
    names = {index: one_line(name) for name, index in indices.items()}
    is_complete = set(names) == set(range(len(names)))
    return tuple(names[index] for index in range(len(names))) if is_complete else ()
