"""What is true of an image: the class of each pixel, in a PNG file of class indices."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.errors import ImageError
from edge_vit.tasks.numerics import BoolArray
from edge_vit.tasks.segmentation.decoding import ClassMap
from edge_vit.tasks.segmentation.prediction import IGNORED, IGNORED_WIDE


@dataclass(frozen=True, eq=False)
class TrueMask:
    """The true class of each pixel of one image.

    Attributes:
        classes: int32 (height, width).
        ignored: which pixels do not count, (height, width).
    """

    classes: ClassMap
    ignored: BoolArray


def read_mask(path: Path, size: tuple[int, int], num_classes: int, offset: int) -> TrueMask:
    """Return the mask in a gray or indexed PNG file.

    Args:
        path: of the file.
        size: (height, width) of its image.
        num_classes: of the model.
        offset: what a level is above its class: 1 where level 0 stands for no class and is left
            out, as ADE20K has it, else 0. Level 255 is left out too, and in files of 16 bits 65535;
            of these 255 is a class where the model has more than 255.

    Raises:
        ImageError: the file is none, has colours in place of indices, is of another size, or a
            level is no class of the model.
    """
    levels, is_wide = _read_classes(path, size)
    classes = levels - offset
    ignored = classes < 0
    if is_wide:
        ignored |= levels == IGNORED_WIDE
    if not is_wide or num_classes <= IGNORED:
        ignored |= levels == IGNORED
    known = classes[~ignored]
    if known.size and known.max() >= num_classes:
        raise ImageError(
            f"mask {path}: got level {int(known.max()) + offset}, but the model has {num_classes} "
            f"classes, levels {offset} to {num_classes - 1 + offset}, and {IGNORED} is left out. "
            "Give masks of the model's own indices, or in a folder called annotations those in "
            "which 0 is no class and 1 the first"
        )
    return TrueMask(classes, ignored)


def describe(paths: Sequence[Path], offset: int) -> str:
    """Return how the masks in files of one folder are read, with what tells a wrong reading.

    Empty where there is nothing to say: masks that begin with 0 and do not look like pictures in
    black and white. Files that cannot be read are passed over; `read_mask` names them.
    """
    counts = np.zeros(IGNORED_WIDE + 1, np.int64)
    for path in paths:
        with contextlib.suppress(ImageError):
            counts += np.bincount(_read_classes(path)[0].reshape(-1), minlength=len(counts))
    if not counts.any():
        return ""
    if offset:
        share = counts[0] / counts.sum()
        found = f"{share:.1%} of the pixels" if counts[0] else "none"
        return (
            f"annotations: level 0, {found} in {len(paths)} masks looked at, is no class, and "
            "level 1 is class 0, as ADE20K has it. Where the levels are the model's own indices, "
            "call the folder masks"
        )
    if set(np.flatnonzero(counts).tolist()) == {0, IGNORED}:
        return (
            f"masks: {len(paths)} looked at have the levels 0 and {IGNORED} alone, and {IGNORED} "
            "is left out. Where it stands for a class, write the index of that class"
        )
    return ""


def _read_classes(path: Path, size: tuple[int, int] | None = None) -> tuple[ClassMap, bool]:
    """Return the levels of a gray or indexed PNG, and whether they are of 16 bits."""
    levels, mode = read_levels(path, size)
    if levels.ndim == 3 and (levels[..., :3] == levels[..., :1]).all():  # gray, saved as colours
        levels = levels[..., 0]
    if levels.ndim != 2 or levels.dtype.kind not in "uib":
        raise ImageError(
            f"mask {path}: got a picture in {mode}, expected a PNG of class indices, gray or with "
            "a palette"
        )
    return levels.astype(np.int32), levels.dtype.itemsize > 1


def read_levels(path: Path, size: tuple[int, int] | None = None) -> tuple[NDArray[Any], str]:
    """Return what is in an image file as it is, palettes left aside, and Pillow's mode of it.

    Where a `size` is given, it has to be of that.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            levels, mode = np.asarray(image), image.mode
    except Exception as error:  # a damaged file can raise anything
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"mask {path} cannot be read: {reason}") from None
    if size is not None and levels.shape[:2] != tuple(size):
        raise ImageError(
            f"mask {path}: got {levels.shape[0]} x {levels.shape[1]} pixels, but its image has "
            f"{size[0]} x {size[1]}. Take the images that were annotated"
        )
    return levels, mode
