"""The layouts that ImageNet's validation images come in, and the class of each image.

Class folders are called by synset, ``n01440764``; a mapping file gives their order. A flat folder
has a list of the truth beside it. Both are looked for in the folder and above it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_vit.data.text_lines import read_text, split_lines
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


def is_synset(name: str) -> bool:
    """Return whether `name` is that of a synset of WordNet, such as ``n01440764``."""
    return _SYNSET.fullmatch(name) is not None


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


@dataclass(frozen=True)
class FlatTruth:
    """What lists of the truth say of a flat folder.

    Attributes:
        classes: index of each image's class; None where no list fits.
        notes: sentences about the list that was used, or why one was not.
    """

    classes: list[int] | None
    notes: tuple[str, ...] = ()


def flat_truth(folder: Path, paths: Sequence[Path], num_classes: int | None = None) -> FlatTruth:
    """Return the class index of each image of a flat folder, where a list of the truth fits.

    A list that lies there by chance, another tool's, is not used: one that cannot be read, that
    does not know every image, or whose classes the model has not.

    Args:
        folder: of the images.
        paths: of the images, relative to the folder.
        num_classes: of the model, where it is known.
    """
    notes: list[str] = []
    for name, read in (
        (KAGGLE_TRUTH, _read_kaggle),
        (CAFFE_TRUTH, _read_caffe),
        (DEVKIT_TRUTH, _read_devkit),
    ):
        path = _find(folder, name)
        if path is None:
            continue
        try:
            known = _classes(path, folder, paths, read, num_classes)
        except (ImageError, ValueError, csv.Error) as error:
            notes.append(f"No labels are taken from {path}: {error}.")
            continue
        if known is not None:
            return FlatTruth(known, (*notes, f"Labels are taken from {path}."))
    return FlatTruth(None, tuple(notes))


def _classes(
    path: Path,
    folder: Path,
    paths: Sequence[Path],
    read: Callable[[Path, Path], dict[str, int]],
    num_classes: int | None,
) -> list[int] | None:
    """The class index of each image by one list; None where it is of other images altogether."""
    truth = read(path, folder)
    known = [truth.get(image.stem) for image in paths]
    found = [index for index in known if index is not None]
    if not found:
        return None
    if len(found) < len(known):
        missing = paths[known.index(None)]
        raise ImageError(
            f"it names {len(found):,} of the {len(known):,} images, and {missing} is not among them"
        )
    if num_classes and max(found) >= num_classes:
        raise ImageError(
            f"it has class {max(found)}, and the model {num_classes} classes, from 0 on"
        )
    return found


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
        place = PurePosixPath(name).parts[:-1]
        if not place or place == folder.resolve().parts[-len(place) :]:
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
        return filter(str.strip, split_lines(read_text(path)))
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as text: {error}") from None


def _damaged(path: Path, number: int, wanted: str) -> ImageError:
    return ImageError(f"{path}, line {number}: expected {wanted}")
