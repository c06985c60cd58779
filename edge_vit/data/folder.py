"""Folders of images: the files that are images, and the class of each folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_vit.data.class_names import Matched, Naming, key_of, match_names
from edge_vit.data.decoding import is_image
from edge_vit.data.registry import IMAGE_SUFFIXES
from edge_vit.data.text_lines import read_text, split_lines
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt")
"""One synset of ImageNet a line, with or without words behind it, in the order of the classes."""

_SYNSET = re.compile(r"n\d{8}")
_SPLITS = "train training trainval val valid validation dev eval evaluation test testing holdout"
_NO_IMAGES = ".txt .md .json .jsonl .xml .csv .tsv .yaml .yml .html .py .log"
_SYSTEM_NAMES = frozenset(
    ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
)
_NUM_SHOWN = 6


@dataclass(frozen=True)
class Listing:
    """The images of a folder."""

    paths: list[Path]  # of the images, sorted and relative to the folder
    # Names of the class folders, sorted; None where the images lie in the folder itself
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]  # sentences about what was left out
    # A sentence about class folders that are left without images, if there are some
    emptied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What lies below a folder: paths relative to it."""

    paths: list[Path]  # of the images, or of whatever is looked for, sorted
    others: list[Path]  # of all other files
    noun: str = "image"
    wanted: str = f"files that end in {', '.join(IMAGE_SUFFIXES)}"
    left_out: str = "no JPEG, PNG, WebP or BMP"


def list_folder(folder: Path, find: Callable[[Path], Found] | None = None) -> Listing:
    """Return the images of `folder`, or what `find` finds there, by the rules of `FolderSource`.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, or mixes images and
            class folders.
    """
    if not folder.is_dir():
        raise ImageError(f"image folder {folder} does not exist or is no folder. Check the path")
    found = (find or _find_images)(folder)
    paths, others, noun = found.paths, found.others, found.noun
    if not paths:
        held = f" (it holds {_count(others)})" if others else ""
        raise ImageError(f"{noun} folder {folder} holds no {noun}s{held}, expected {found.wanted}")
    notes: tuple[str, ...] = ()
    if others:
        notes = (f"Left out of {folder}: {_count(others)}, which are {found.left_out}.",)
    loose = [path for path in paths if len(path.parts) <= 1]
    if len(loose) == len(paths):
        return Listing(paths, None, notes)
    if loose:
        raise ImageError(
            f"{noun} folder {folder} holds {noun}s ({loose[0]}, ...) beside folders of {noun}s, "
            "expected either. Move them all into class folders, or all into one flat folder"
        )
    classes, filled = _class_folders(folder), {path.parts[0] for path in paths}
    empty = []
    for name in classes:
        if name not in filled:
            inside = [path for path in others if path.parts[0] == name]
            empty.append(f"{name} ({_count(inside)})" if inside else name)
    if not empty:
        return Listing(paths, classes, notes)
    shown = ", ".join(empty[:_NUM_SHOWN]) + (", ..." if len(empty) > _NUM_SHOWN else "")
    emptied = f"Class folders of {folder} without any {noun} that is read: {shown}."
    return Listing(paths, classes, notes, (emptied,))


def match_folders(
    folder: Path, listing: Listing, labels: Sequence[str], num_classes: int | None = None
) -> Matched:
    """Return the class index of each class folder of `listing`, by the rules of `FolderSource`."""
    filled = {path.parts[0] for path in listing.paths}
    keys = {key_of(label) for label in labels}
    names = list(listing.classes or ())
    if any(key_of(name) in keys for name in filled):
        # An empty folder that is no label is no class: annotations lie so.
        names = [name for name in names if name in filled or key_of(name) in keys]
    if not set(names) <= set(labels) and all(map(_SYNSET.fullmatch, names)):
        mapping = _find_mapping(folder)
        if mapping is not None:
            return Matched(_by_synset(folder, names, mapping, len(labels) or num_classes))
    splits = [
        name for name in names if key_of(name) in _SPLITS.split() and key_of(name) not in keys
    ]
    if splits:
        choice = max(splits, key=lambda name: key_of(name)[:3] in ("val", "tes", "dev", "eva"))
        raise ImageError(
            f"image folder {folder} holds {', '.join(splits[:3])}: parts of a data set, not "
            f"classes. Pass one of them, such as {folder / choice}"
        )

    def mend() -> str:
        for name in names:
            if key_of(name) not in keys and keys.intersection(
                map(key_of, _class_folders(folder / name))
            ):
                return f"The classes are in {folder / name}: pass that"
        if all(map(_SYNSET.fullmatch, names)):
            return f"Put {SYNSET_FILES[0]}, which gives the order of synsets, beside them"
        return "Name the folders after the labels, or pass a flat folder to measure agreement only"

    naming = Naming(
        f"Class folders of {folder}", lambda name: f"class folder {folder / name}", mend
    )
    return match_names(names, labels, naming, num_classes=num_classes, is_complete=True)


def expand_folders(
    paths: Iterable[Path], find: Callable[[Path], Found] | None = None
) -> tuple[list[Path], tuple[str, ...]]:
    """Return `paths`, each folder among them as the images in it, and notes on what is left out.

    `find` is that of `list_folder`.
    """
    found: list[Path] = []
    notes: tuple[str, ...] = ()
    for path in paths:
        if path.is_dir():
            listing = list_folder(path, find)
            found += [path / name for name in listing.paths]
            notes += listing.notes
        else:
            found.append(path)
    return found, notes


def _find_mapping(folder: Path) -> Path | None:
    """The file with the order of ImageNet's synsets, in the folder or one of four above it.

    Kaggle has it beside ``ILSVRC/Data/CLS-LOC/val``.
    """
    places = (folder, *list(folder.resolve().parents)[:4])
    paths = (place / name for place in places for name in SYNSET_FILES)
    return next((path for path in paths if path.is_file()), None)


def _by_synset(
    folder: Path, names: Sequence[str], mapping: Path, num_classes: int | None
) -> dict[str, int]:
    refuse_lfs_pointer(mapping, ImageError)
    try:
        synsets = [line.split()[0] for line in split_lines(read_text(mapping)) if line.strip()]
    except (OSError, ValueError) as error:
        raise ImageError(f"{mapping} cannot be read as text: {error}") from None
    index = {synset: number for number, synset in enumerate(synsets)}
    for name in names:
        if name not in index:
            raise ImageError(
                f"class folder {folder / name} is none of the {len(index)} synsets in {mapping}"
            )
        if num_classes and index[name] >= num_classes:
            raise ImageError(
                f"class folder {folder / name} is class {index[name]} of {mapping}, and the model "
                f"has {num_classes} classes, from 0 on. Name the folders after the model's labels"
            )
    return {name: index[name] for name in names}


def _class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in `folder`, hidden ones aside, sorted."""
    entries = os.scandir(folder)
    return tuple(sorted(e.name for e in entries if e.is_dir() and not _is_system(e.name)))


def _find_images(folder: Path) -> Found:
    """Paths of all images below `folder` and of all other files, relative, without hidden ones."""
    found: list[Path] = []
    others: list[Path] = []
    for path in find_files(folder):
        (found if is_image_file(folder / path) else others).append(path)
    return Found(sorted(found, key=lambda path: path.parts), others)


def is_image_file(path: Path) -> bool:
    """Return whether the file at `path` is taken for an image, by its name or how it begins."""
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES or (suffix not in _NO_IMAGES.split() and is_image(path))


def find_files(folder: Path) -> Iterator[Path]:
    """Yield the paths of all files below `folder`, relative to it, without hidden ones."""
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
        yield from (below / name for name in names if not _is_system(name))


def _is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that an operating system puts everywhere."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _refuse_unreadable(error: OSError) -> None:
    raise ImageError(f"image folder {error.filename} cannot be read: {error.strerror}")


def _count(paths: Sequence[Path]) -> str:
    """Return ``3 .heic, 2 .gif``, the most frequent first."""
    suffixes = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    ordered = sorted(suffixes.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count:,} {suffix}" for suffix, count in ordered[:_NUM_SHOWN]]
    rest = sum(count for _, count in ordered[_NUM_SHOWN:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])
