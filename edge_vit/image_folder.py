"""What a folder of images means: which files are images, and which class each folder stands for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from edge_vit.errors import ImageError, SpecError
from edge_vit.image_net import synset_indices

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
"""How the names of images end, in lower or upper case."""


def list_folder(
    folder: Path, labels: Sequence[str] = ()
) -> tuple[list[Path], dict[str, int] | None]:
    """Return the images of `folder`, sorted and relative to it, and its class folders' indices.

    The indices are None where the images lie in `folder` itself. `FolderSource` tells the rules.

    Raises:
        ImageError: the folder is missing, cannot be read, holds no images, mixes images and class
            folders, or has class folders that do not fit `labels`.
    """
    if not folder.is_dir():
        raise ImageError(f"image folder {folder} does not exist or is no folder. Check the path")
    paths = _find_images(folder)
    if not paths:
        raise ImageError(
            f"image folder {folder} holds no images, "
            f"expected files that end in {', '.join(EXTENSIONS)}"
        )
    loose = [path for path in paths if len(path.parts) == 1]
    if len(loose) == len(paths):
        return paths, None
    if loose:
        raise ImageError(
            f"image folder {folder} holds images ({loose[0]}, ...) beside folders of images, "
            "expected either. Move them all into class folders, or all into one flat folder"
        )
    return paths, _class_indices(folder, tuple(labels))


def expand_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield `paths`, each folder among them as the images in it, in their order.

    Raises:
        ImageError: as `list_folder` does, when the folder's turn comes.
    """
    for path in paths:
        if path.is_dir():
            yield from (path / name for name in list_folder(path)[0])
        else:
            yield path


def _find_images(folder: Path) -> list[Path]:
    """Paths of all images below `folder`, relative to it, sorted, without hidden ones."""
    found: list[Path] = []
    seen: dict[str, str] = {}  # folder without links -> path by which it was reached
    for root, folders, names in os.walk(folder, onerror=_refuse_unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            raise ImageError(
                f"image folder {root} is also reached as {seen[real]}, by a link, "
                "so its images would count twice. Remove the link"
            )
        seen[real] = root
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(root).relative_to(folder)
        found += [
            below / name
            for name in names
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS)
        ]
    return sorted(found, key=lambda path: path.parts)


def _refuse_unreadable(error: OSError) -> None:
    raise ImageError(f"image folder {error.filename} cannot be read: {error.strerror}")


def _class_indices(folder: Path, labels: tuple[str, ...]) -> dict[str, int]:
    """Class index by the name of each class folder in `folder`."""
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    unknown = [name for name in names if name not in labels]
    by_synset = synset_indices(folder, names) if unknown else None
    if by_synset is not None:
        return by_synset
    if unknown and labels and len(labels) != len(names):
        raise ImageError(
            f"class folder {folder / unknown[0]} is none of the model's {len(labels)} labels "
            f"({labels[0]!r}, ...). Name the folders after the labels, "
            "or pass a flat folder to measure agreement only"
        )
    if unknown:
        return {name: index for index, name in enumerate(names)}
    for name in names:
        if labels.count(name) > 1:  # ImageNet has two kinds of crane
            raise ImageError(
                f"class folder {folder / name} names {labels.count(name)} of the model's labels, "
                "expected one. Pass a flat folder to measure agreement only"
            )
    return {name: labels.index(name) for name in names}


def spread(count: int, limit: int | None) -> list[bool]:
    """Return which of `count` things to take, so that `limit` of them lie evenly among all.

    Raises:
        SpecError: `limit` is below 1.
    """
    if limit is None:
        return [True] * count
    if limit < 1:
        raise SpecError(f"limit: got {limit}, expected at least 1 image")
    limit = min(limit, count)
    chosen = {index * count // limit for index in range(limit)}
    return [index in chosen for index in range(count)]
