"""The layouts that ImageNet's validation images come in, and the class of each image.

Class folders are called by synset, ``n01440764``; a mapping file gives their order. A flat folder
has a list of the truth beside it. Both are looked for in the folder and above it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

SYNSET_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt")
"""One synset a line, with or without words behind it, in the order of the classes."""

DEVKIT_SYNSETS = "map_clsloc.txt"
"""``n02119789 1 kit_fox``: the number that the development kit counts classes by, from 1 on."""

CAFFE_TRUTH = "val.txt"
"""``ILSVRC2012_val_00000001.JPEG 65``: an image and the place of its class, from 0 on."""

KAGGLE_TRUTH = "LOC_val_solution.csv"
"""``ILSVRC2012_val_00000001,n01751748 111 108 230 173``: an image, its synset and a box."""

DEVKIT_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
"""A number a line, as `DEVKIT_SYNSETS` counts, line i for image i."""

_SYNSET = re.compile(r"n\d{8}")
_LEVELS = 4  # above the images: ILSVRC/Data/CLS-LOC/val lies so far below the lists
_DEVKIT_FOLDERS = ("", "devkit/data", "ILSVRC2012_devkit_t12/data")


def synset_indices(folder: Path, names: Sequence[str]) -> dict[str, int] | None:
    """Return the class index of each class folder that is called by its synset.

    Args:
        folder: in which the class folders lie.
        names: of the class folders.

    Returns:
        None where some are called otherwise, or no mapping is found.

    Raises:
        ImageError: the mapping does not know a folder, or is damaged.
    """
    if not names or not all(_SYNSET.fullmatch(name) for name in names):
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


def flat_truth(folder: Path, paths: Sequence[Path]) -> list[int] | None:
    """Return the class index of each image of a flat folder, where a list of the truth is found.

    Args:
        folder: of the images.
        paths: of the images, relative to the folder.

    Raises:
        ImageError: the list is damaged, or does not know an image; or the list of classes that it
            needs is missing.
    """
    for name, read in (
        (KAGGLE_TRUTH, _read_kaggle),
        (CAFFE_TRUTH, _read_caffe),
        (DEVKIT_TRUTH, _read_devkit),
    ):
        path = _find(folder, name)
        if path is None:
            continue
        truth = read(path, folder)
        known = [truth.get(image.stem) for image in paths]
        if not any(index is not None for index in known):
            continue  # a list of something else that lies above by chance
        if None in known:
            missing = paths[known.index(None)]
            raise ImageError(
                f"image {folder / missing} is not in {path}, which knows the class of others. "
                "Remove the list to measure agreement only"
            )
        return [index for index in known if index is not None]
    return None


def _read_kaggle(path: Path, folder: Path) -> dict[str, int]:
    index = _read_synsets(_need(folder, path, *SYNSET_FILES))
    truth = {}
    for number, row in enumerate(csv.reader(_lines(path)), 1):
        words = row[1].split() if len(row) == 2 else []
        if number == 1 and words[:1] == ["PredictionString"]:
            continue
        if not words or words[0] not in index:
            raise _damaged(path, number, "an image and its synset")
        truth[row[0]] = index[words[0]]
    return truth


def _read_caffe(path: Path, folder: Path) -> dict[str, int]:
    truth = {}
    for number, line in enumerate(_lines(path), 1):
        name, _, index = line.rpartition(" ")
        if not name or not index.isdecimal():
            raise _damaged(path, number, "an image and the place of its class")
        truth[Path(name).stem] = int(index)
    return truth


def _read_devkit(path: Path, folder: Path) -> dict[str, int]:
    synsets = {}
    mapping = _need(folder, path, DEVKIT_SYNSETS)
    for number, line in enumerate(_lines(mapping), 1):
        words = line.split()
        if len(words) < 2 or not _SYNSET.fullmatch(words[0]) or not words[1].isdecimal():
            raise _damaged(mapping, number, "a synset and its number")
        synsets[int(words[1])] = words[0]
    index = {synset: place for place, synset in enumerate(sorted(synsets.values()))}
    truth = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip().isdecimal() or int(line) not in synsets:
            raise _damaged(path, number, f"a number of {mapping}")
        truth[f"ILSVRC2012_val_{number:08d}"] = index[synsets[int(line)]]
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
        for below in _DEVKIT_FOLDERS:
            for name in names:
                if (place / below / name).is_file():
                    return place / below / name
    return None


def _need(folder: Path, path: Path, *names: str) -> Path:
    found = _find(folder, *names)
    if found is None:
        raise ImageError(
            f"{path} names classes by their synset or number, and {' or '.join(names)} with their "
            f"order is neither beside it nor in {folder}. Put it there"
        )
    return found


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty."""
    refuse_lfs_pointer(path, ImageError)
    try:
        return filter(str.strip, path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path} cannot be read as text: {error}") from None


def _damaged(path: Path, number: int, wanted: str) -> ImageError:
    return ImageError(f"{path}, line {number}: expected {wanted}")
