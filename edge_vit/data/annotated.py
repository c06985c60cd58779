"""Images with their truth beside them: COCO annotations, YOLO's folders, files of maps."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_vit.data.class_names import key_of
from edge_vit.data.folder import list_folder
from edge_vit.data.images import FileSource, ImageItem
from edge_vit.data.source import Wanted, spread
from edge_vit.errors import ImageError
from edge_vit.spec import ClipSpec
from edge_vit.tasks import TASKS, task_named
from edge_vit.tasks.base import TruthFiles
from edge_vit.tasks.coco import Annotated, match_classes, read_annotations, read_names
from edge_vit.tasks.detection.truth import Objects, of_coco, read_yolo

ReadTruth = Callable[[int, ImageItem], object]
"""(index, decoded image) -> its objects, or what else is true of it."""

IMAGES = "images"
IMAGE_FOLDERS = (IMAGES, "leftImg8bit", "img_dir")
"""Names of the folder of the images beside their truth, the last two of Cityscapes and mmseg."""

_LOOKED_AT = 8  # files of truth or of images, to say how they are read and where they lie
_YAML = ("yaml", "yml")
_LINE = r"[ \t]*(?:-|(?:\d+)[ \t]*:)[ \t]+.*(?:\n|$)"  # of a list, or a name by its index
_NAMES = re.compile(
    rf"^names:[ \t]*(?:[\[{{](?P<flow>[^\]}}]*)[\]}}]|(?:#.*)?\r?\n(?P<lines>(?:{_LINE})+))",
    re.MULTILINE,
)
_NAME = re.compile(r"^\s*(?:-\s+|(?P<index>\d+)\s*:\s+)?(?P<name>.*?)\s*(?:\s#.*)?$")
_CITYSCAPES = "_leftImg8bit"  # end of the names of its images, that its masks do not have


class AnnotatedSource(FileSource):
    """Images of files, each with its truth, which `read` returns."""

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        read: ReadTruth,
        labels: Sequence[str],
        notes: Sequence[str] = (),
        clip: ClipSpec | None = None,
    ) -> None:
        super().__init__(paths, names=names, labels=labels, notes=notes, clip=clip)
        self._read = read

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded, with its truth."""
        item = super().item(index)
        return replace(item, truth=self._read(index, item))


def open_coco(address: str, wanted: Wanted) -> FileSource:
    """Return the images of a COCO annotation file, which lie beside it or in a folder near it."""
    path, truth = Path(address), wanted.truth
    annotated: Mapping[str, Annotated] = {}
    if truth is not None and truth.annotated is not None:
        annotated = truth.annotated(path, key_of)
    elif wanted.has_truth:
        annotated = read_annotations(
            path, wanted.labels, "bbox", of_coco, wanted.num_classes, key_of
        )
    names = list(annotated) or read_names(path)
    if not names:
        raise ImageError(f"{path} lists no images, expected a COCO annotation file with some")
    folder = _folder_of(path, names)
    paths = [folder / name for name in names]
    if not annotated:
        return FileSource(paths, names=names, labels=wanted.labels)

    def read(index: int, item: ImageItem) -> object:
        found, (height, width) = annotated[names[index]], item.pixels.shape[:2]
        if found.size not in ((0, 0), (height, width)):
            raise ImageError(
                f"{item.name}: got {height} x {width} pixels, but {path.name} says "
                f"{found.size[0]} x {found.size[1]}: what it says does not fit. Take the images "
                "that were annotated"
            )
        return found.read((height, width))

    return AnnotatedSource(paths, names, read, wanted.labels)


def _folder_of(path: Path, names: Sequence[str]) -> Path:
    """Return the folder in which the images `names` of the annotation file at `path` lie.

    The one that holds most of those looked at: some may be missing.
    """
    split = path.stem.removeprefix("instances_").removeprefix("panoptic_")
    parents = (path.parent, path.parent.parent)
    below = (Path(), Path(split), Path(IMAGES), Path(IMAGES, split))
    folders = list(dict.fromkeys(parent / folder for parent in parents for folder in below))
    some = list(itertools.compress(names, spread(len(names), _LOOKED_AT)))
    counts = [sum((folder / name).is_file() for name in some) for folder in folders]
    if max(counts):
        return folders[counts.index(max(counts))]
    raise ImageError(
        f"{path} lists {some[0]}, which is in none of {', '.join(map(str, folders))}. "
        "Put the images, or a link to their folder, beside the file"
    )


def is_yolo(folder: Path) -> bool:
    """Return whether `folder` holds ``images`` and ``labels``, as YOLO's tools want it."""
    return (folder / IMAGES).is_dir() and (folder / "labels").is_dir()


def open_yolo(address: str, wanted: Wanted) -> AnnotatedSource:
    """Return the images in ``images``, each with the objects of its text file in ``labels``.

    Classes are matched by the names in a ``data.yaml`` beside or above them, as of COCO's.
    """
    root = Path(address)
    names = [path.as_posix() for path in list_folder(root / IMAGES).paths]
    num_classes = wanted.num_classes or len(wanted.labels) or None
    classes = dict[int, int]()
    found = _find_names(root)
    if found is not None:
        path, own = found
        classes = match_classes(path, own, wanted.labels, num_classes, key_of)

    def read(index: int, item: ImageItem) -> Objects:
        text = (root / "labels" / names[index]).with_suffix(".txt")
        height, width = item.pixels.shape[:2]
        objects = read_yolo(text, (height, width), len(classes) or num_classes)
        own = [classes.get(int(number), int(number)) for number in objects.classes]
        return replace(objects, classes=np.array(own, np.int64))

    paths = [root / IMAGES / name for name in names]
    return AnnotatedSource(paths, names, read, wanted.labels)


def _find_names(root: Path) -> tuple[Path, dict[int, str]] | None:
    """Return the file of YOLO's that names the classes, and the names by index; None without."""
    for path in (folder / f"data.{end}" for folder in (root, root.parent) for end in _YAML):
        text = path.read_text("utf-8-sig", errors="replace") if path.is_file() else ""
        block = _NAMES.search(text)
        if block is None:
            continue
        listed = block["flow"].split(",") if block["flow"] else block["lines"].splitlines()
        items = [item for each in listed if each.strip() and (item := _NAME.match(each))]
        return path, {
            int(item["index"] or place): item["name"].strip("'\"")
            for place, item in enumerate(items)
        }
    return None


def has_pairs(folder: Path, truth: TruthFiles | None) -> bool:
    """Return whether `folder` holds images, and beside them the truth of a task in files.

    Where a `truth` is wanted, the folder of the images may be given as well.
    """
    if truth is not None and find_truth(folder, truth.folders) is not None:
        return True
    names = [name for task in TASKS.shipped for name in task_named(task).truth_folders]
    found = find_truth(folder, names)
    return found is not None and found[0] != folder


def find_truth(folder: Path, names: Sequence[str]) -> tuple[Path, Path] | None:
    """Return the folder of the images, and that of their truth, one of `names`; None without one.

    `folder` holds both, or it is that of the images or one in it, such as ``images/validation``.
    """
    for above in (folder, folder.parent, folder.parent.parent):
        for images in IMAGE_FOLDERS:
            inside = above == folder or folder.is_relative_to(above / images)
            if not inside or not (above / images).is_dir():
                continue
            begin = above / images if above == folder else folder
            rest = begin.relative_to(above / images)
            places = (above / name / rest for name in names)
            place = next((each for each in places if each.is_dir()), None)
            if place is not None:
                return begin, place
    return None


def open_pairs(address: str, wanted: Wanted) -> FileSource:
    """Return the images beside which lies their truth, each with the file of its name.

    Without the truth that is wanted they are images alone.
    """
    root, truth = Path(address), wanted.truth
    pair = find_truth(root, truth.folders) if truth else None
    images = pair[0] if pair else next(root / n for n in IMAGE_FOLDERS if (root / n).is_dir())
    names = [path.as_posix() for path in list_folder(images).paths]
    paths = [images / name for name in names]
    if truth is None or pair is None:
        return FileSource(paths, names=names, labels=wanted.labels)
    reader, place = truth, pair[1]

    def file_of(name: str) -> Path:
        stem = str((place / name).with_suffix("")).removesuffix(_CITYSCAPES)
        found = [path for end in reader.suffixes if (path := Path(f"{stem}{end}")).is_file()]
        if not found:
            raise ImageError(
                f"{name}: {place} holds no {Path(stem).name}{' or '.join(reader.suffixes)} "
                "for it. Give each image its file, or take those without one out"
            )
        return found[0]

    def read(index: int, item: ImageItem) -> object:
        height, width = item.pixels.shape[:2]
        return reader.read(file_of(names[index]), (height, width))

    some = []
    for name in itertools.compress(names, spread(len(names), _LOOKED_AT)):
        with contextlib.suppress(ImageError):  # it is named when its turn comes
            some.append(file_of(name))
    note = reader.describe(some) if some else ""
    return AnnotatedSource(paths, names, read, wanted.labels, [note] if note else [])
