"""What is true of an image: the class of each pixel, in a PNG file of class indices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_vit.errors import ArtifactError, ImageError
from edge_vit.tasks.numerics import BoolArray
from edge_vit.tasks.segmentation.decoding import ClassMap
from edge_vit.tasks.segmentation.prediction import IGNORED


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
            out, as ADE20K has it, else 0. Level 255 is always left out.

    Raises:
        ArtifactError: the file is none, or has colours in place of indices.
        ImageError: it is of another size, or a level is no class of the model.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, levels = image.mode, np.asarray(image)
    except OSError as error:
        raise ArtifactError(f"mask {path} cannot be read: {error.strerror or error}") from None
    if levels.ndim != 2 or levels.dtype.kind not in "ui":
        raise ArtifactError(
            f"mask {path}: got a picture in {mode}, expected a PNG of class indices, gray or with "
            "a palette"
        )
    if levels.shape != tuple(size):
        raise ImageError(
            f"mask {path}: got {levels.shape[0]} x {levels.shape[1]} pixels, but its image has "
            f"{size[0]} x {size[1]}. Take the images that were annotated"
        )
    classes = levels.astype(np.int32) - offset
    ignored = (levels == IGNORED) | (classes < 0)
    known = classes[~ignored]
    if known.size and known.max() >= num_classes:
        raise ImageError(
            f"mask {path}: got level {int(known.max()) + offset}, but the model has {num_classes} "
            f"classes, 0 to {num_classes - 1}, and {IGNORED} is left out. Give masks of the "
            "model's own indices"
        )
    return TrueMask(classes, ignored)
