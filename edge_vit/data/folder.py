"""What a folder of images means: which files are images, and which class each folder stands for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from edge_vit.data.class_names import Matched, Naming, key_of, match_names
from edge_vit.data.decoding import is_image
from edge_vit.data.imagenet import SYNSET_FILES, is_synset, synset_indices
from edge_vit.data.registry import IMAGE_SUFFIXES
from edge_vit.errors import ImageError

_OTHER_IMAGES = (
    ".tif .tiff .heic .heif .avif .gif .jp2 .j2k .jxl .psd .svg .ico .tga .exr .hdr .dcm .pgm .ppm "
    ".pbm .pnm .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf"
)
"""Suffixes of images in formats that are not read."""
_SPLITS = "train training trainval val valid validation dev eval evaluation test testing holdout"
_NO_IMAGES = ".txt .md .json .jsonl .xml .csv .tsv .yaml .yml .html .py .log"
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini"))
_SYSTEM_FOLDERS = frozenset(("__macosx", "@eadir", "$recycle.bin", "lost+found"))
_NUM_SUFFIXES = 6


@dataclass(frozen=True)
class Listing:
    """The images of a folder.

    Attributes:
        paths: of the images, sorted and relative to the folder.
        classes: names of the class folders, sorted; None where the images lie in the folder itself.
        notes: sentences about what was left out.
        filled: the class folders that hold images.
        emptied: a sentence about class folders that are left without images, if there are some.
    """

    paths: list[Path]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]
    filled: frozenset[str] = frozenset()
    emptied: tuple[str, ...] = ()


def list_folder(folder: Path) -> Listing:
    """Return the images of `folder`. `FolderSource` tells the rules.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, or mixes images and
            class folders.
    """
    if not folder.is_dir():
        raise ImageError(f"image folder {folder} does not exist or is no folder. Check the path")
    paths, others = _find_images(folder)
    suffixes = Counter(_suffix(path) for path in others)
    if not paths:
        found = f" (it holds {_count(suffixes)})" if suffixes else ""
        raise ImageError(
            f"image folder {folder} holds no images{found}, "
            f"expected files that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    notes = _say_left_out(folder, suffixes)
    loose = [path for path in paths if len(path.parts) == 1]
    if len(loose) == len(paths):
        return Listing(paths, None, notes)
    if loose:
        raise ImageError(
            f"image folder {folder} holds images ({loose[0]}, ...) beside folders of images, "
            "expected either. Move them all into class folders, or all into one flat folder"
        )
    classes = class_folders(folder)
    filled = frozenset(path.parts[0] for path in paths)
    empty = [name for name in classes if name not in filled]
    return Listing(paths, classes, notes, filled, _say_emptied(folder, empty, others))


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in `folder`, hidden ones aside, sorted."""
    return tuple(
        sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not _is_system(entry.name)
        )
    )


def match_folders(
    folder: Path, listing: Listing, labels: Sequence[str], num_classes: int | None = None
) -> Matched:
    """Return the class index of each class folder of `listing`. `FolderSource` tells the rules.

    Raises:
        ImageError: a class folder is no class of the model, or the folders are no classes.
    """
    filled = listing.filled
    keys = {key_of(label) for label in labels}
    names = list(listing.classes or ())
    if any(key_of(name) in keys for name in filled):
        # An empty folder that is no label is no class: annotations lie so.
        names = [name for name in names if name in filled or key_of(name) in keys]
    if not set(names) <= set(labels):
        by_synset = synset_indices(folder, names)
        if by_synset is not None:
            _check_synsets(folder, by_synset, len(labels) or num_classes)
            return Matched(by_synset)
    _refuse_splits(folder, names, labels)
    naming = Naming(
        f"Class folders of {folder}",
        lambda name: f"class folder {folder / name}",
        lambda: _mend(folder, names, keys),
    )
    return match_names(names, labels, naming, num_classes=num_classes, is_complete=True)


def expand_folders(paths: Iterable[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Return `paths`, each folder among them as the images in it, and notes on what is left out.

    Raises:
        ImageError: a folder cannot be read, or holds no images.
    """
    found: list[Path] = []
    notes: tuple[str, ...] = ()
    for path in paths:
        if path.is_dir():
            listing = list_folder(path)
            found += [path / name for name in listing.paths]
            notes += listing.notes
        else:
            found.append(path)
    return found, notes


def _find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Paths of all images below `folder` and of all other files, relative, without hidden ones."""
    found: list[Path] = []
    others: list[Path] = []
    seen: dict[str, str] = {}  # folder without links -> path by which it was reached
    for root, folders, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            raise ImageError(
                f"image folder {root} is also reached as {seen[real]}, by a link, "
                "so its images would count twice. Remove the link"
            )
        seen[real] = root
        folders[:] = [name for name in folders if not _is_system(name)]
        below = Path(root).relative_to(folder)
        for name in names:
            if not _is_system(name):
                is_read = name.lower().endswith(IMAGE_SUFFIXES) or _holds_image(root, name)
                (found if is_read else others).append(below / name)
    return sorted(found, key=lambda path: path.parts), others


def _holds_image(root: str, name: str) -> bool:
    """Whether a file of another suffix, or of none, holds a JPEG, PNG or WebP all the same."""
    path = Path(root, name)
    return path.suffix.lower() not in _NO_IMAGES.split() and is_image(path)


def _is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that an operating system puts everywhere."""
    name = name.lower()
    return name.startswith(".") or name in _SYSTEM_FILES or name in _SYSTEM_FOLDERS


def _refuse_unreadable(error: OSError) -> None:
    raise ImageError(f"image folder {error.filename} cannot be read: {error.strerror}")


def _suffix(path: Path) -> str:
    return path.suffix.lower() or "without a suffix"


def _count(suffixes: Counter[str]) -> str:
    """Return ``3 .heic, 2 .gif``, the most frequent first."""
    ordered = sorted(suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count:,} {suffix}" for suffix, count in ordered[:_NUM_SUFFIXES]]
    rest = sum(count for _, count in ordered[_NUM_SUFFIXES:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def _say_left_out(folder: Path, suffixes: Counter[str]) -> tuple[str, ...]:
    if not suffixes:
        return ()
    has_images = set(_OTHER_IMAGES.split()) & set(suffixes)
    hint = "; convert images to JPEG or PNG to have them" if has_images else ""
    return (
        f"Left out of {folder}: {_count(suffixes)}, which are not JPEG, PNG, WebP or BMP{hint}.",
    )


def _say_emptied(folder: Path, names: Sequence[str], others: Sequence[Path]) -> tuple[str, ...]:
    """Say which class folders have no image that is read, and what they hold instead."""
    if not names:
        return ()
    shown = []
    for name in names[:_NUM_SUFFIXES]:
        inside = Counter(_suffix(path) for path in others if path.parts[0] == name)
        shown.append(f"{name} ({_count(inside)})" if inside else name)
    rest = f", and {len(names) - _NUM_SUFFIXES} more" if len(names) > _NUM_SUFFIXES else ""
    return (f"Class folders of {folder} without any image that is read: {', '.join(shown)}{rest}.",)


def _check_synsets(folder: Path, indices: Mapping[str, int], num_classes: int | None) -> None:
    last = max(indices, key=lambda name: indices[name])
    if num_classes and indices[last] >= num_classes:
        raise ImageError(
            f"class folder {folder / last} is class {indices[last]} of ImageNet, and the model has "
            f"{num_classes} classes, from 0 on. Name the folders after the model's labels"
        )


def _refuse_splits(folder: Path, names: Sequence[str], labels: Sequence[str]) -> None:
    keys = {key_of(label) for label in labels}
    splits = [
        name for name in names if key_of(name) in _SPLITS.split() and key_of(name) not in keys
    ]
    if splits:
        choice = max(splits, key=lambda name: key_of(name)[:3] in ("val", "tes", "dev", "eva"))
        raise ImageError(
            f"image folder {folder} holds {', '.join(splits[:3])}: parts of a data set, not "
            f"classes. Pass one of them, such as {folder / choice}"
        )


def _mend(folder: Path, names: Sequence[str], keys: Set[str]) -> str:
    """What to do about a folder that is no class: perhaps the classes lie one level below."""
    for name in names:
        if key_of(name) not in keys and any(
            key_of(n) in keys for n in class_folders(folder / name)
        ):
            return f"The classes are in {folder / name}: pass that"
    if all(map(is_synset, names)):
        return f"Put {SYNSET_FILES[0]}, which gives the order of synsets, beside them"
    return "Name the folders after the labels, or pass a flat folder to measure agreement only"
