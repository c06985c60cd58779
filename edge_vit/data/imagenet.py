"""The layouts that ImageNet's validation images come in, and the class of each image.

Class folders are called by synset, ``n01440764``; a mapping file gives their order. A flat folder
has the list of the truth that Kaggle publishes. Both are looked for in the folder and above it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_vit.data.text_lines import read_text, split_lines
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt")
"""One synset a line, with or without words behind it, in the order of the classes."""

KAGGLE_TRUTH = "LOC_val_solution.csv"
"""``ILSVRC2012_val_00000001,n01751748 111 108 230 173``: an image, its synset and a box."""

_SYNSET = re.compile(r"n\d{8}")
_LEVELS = 4  # above the images: ILSVRC/Data/CLS-LOC/val lies so far below the lists


def is_synset(name: str) -> bool:
    """Return whether `name` is that of a synset of WordNet, such as ``n01440764``."""
    return _SYNSET.fullmatch(name) is not None


def synset_indices(folder: Path, names: Sequence[str]) -> dict[str, int] | None:
    """Return the class index of each class folder that is called by its synset.

    Returns:
        None where some are called otherwise, or no mapping is found.

    Raises:
        ImageError: the mapping does not know a folder, or is damaged.
    """
    if not names or not all(map(is_synset, names)):
        return None
    path = _find(folder, *SYNSET_FILES)
    if path is None:
        return None
    index = _read_synsets(path)
    for name in names:
        if name not in index:
            raise ImageError(
                f"class folder {folder / name} is none of the {len(index)} synsets in {path}"
            )
    return {name: index[name] for name in names}


def flat_truth(
    folder: Path, paths: Sequence[Path], num_classes: int | None = None
) -> tuple[list[int] | None, tuple[str, ...]]:
    """Return the class of each image of a flat folder by `KAGGLE_TRUTH`, and what is to be noted.

    A list that does not fit lies there by chance and is not used: one that cannot be read, that
    does not know every image, or whose classes the model has not. Then the classes are None.
    """
    path = _find(folder, KAGGLE_TRUTH)
    if path is None:
        return None, ()
    try:
        truth = _read_kaggle(path, folder)
        known = [truth.get(image.stem) for image in paths]
        classes = [index for index in known if index is not None]
        if not classes:
            return None, ()
        if len(classes) < len(known):
            raise ImageError(
                f"it names {len(classes):,} of the {len(known):,} images, and "
                f"{paths[known.index(None)]} is not among them"
            )
        if num_classes and max(classes) >= num_classes:
            raise ImageError(
                f"it has class {max(classes)}, and the model {num_classes} classes, from 0 on"
            )
    except (ImageError, ValueError, csv.Error) as error:
        return None, (f"No labels are taken from {path}: {error}.",)
    return classes, (f"Labels are taken from {path}.",)


def _read_kaggle(path: Path, folder: Path) -> dict[str, int]:
    synsets = _find(folder, *SYNSET_FILES)
    if synsets is None:
        raise ImageError(
            f"{path} names classes by their synset, and {' or '.join(SYNSET_FILES)} with their "
            f"order is neither beside it nor in {folder}. Put it there"
        )
    index = _read_synsets(synsets)
    truth = {}
    for number, row in enumerate(csv.reader(_lines(path)), 1):
        words = row[1].split() if len(row) == 2 else []
        if number == 1 and words[:1] == ["PredictionString"]:
            continue
        if not words or words[0] not in index:
            raise _damaged(path, number, "an image and its synset")
        truth[row[0]] = index[words[0]]
    return truth


def _read_synsets(path: Path) -> dict[str, int]:
    index: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        synset = line.split()[0]
        if not _SYNSET.fullmatch(synset):
            raise _damaged(path, number, "a synset such as n01440764")
        index[synset] = len(index)
    return index


def _find(folder: Path, *names: str) -> Path | None:
    """The first of `names` in the folder or in one of those above it; None where there is none."""
    for place in (folder, *list(folder.resolve().parents)[:_LEVELS]):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty."""
    refuse_lfs_pointer(path, ImageError)
    try:
        return filter(str.strip, split_lines(read_text(path)))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as text: {error}") from None


def _damaged(path: Path, number: int, wanted: str) -> ImageError:
    return ImageError(f"{path}, line {number}: expected {wanted}")
