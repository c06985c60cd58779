"""Images and their labels in an array of NumPy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_vit.data.images import ArraySource
from edge_vit.data.source import Wanted
from edge_vit.data.text_lines import shorten
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

IMAGES_KEY, LABELS_KEY = "images", "labels"


def open_array(address: str, wanted: Wanted) -> ArraySource:
    """Return the images of a ``.npy`` or ``.npz`` file, and their labels.

    A ``.npy`` file stays on the disk until an image's turn comes. A ``.npz`` file holds `images`,
    uint8 (N, H, W, 3) RGB, and class indices `labels` (N,) where they are known.

    Raises:
        ImageError: the file is damaged, or holds something else, or classes that the model has not.
    """
    path = Path(address)
    num_classes = (len(wanted.labels) or wanted.num_classes) if wanted.has_truth else None
    refuse_lfs_pointer(path, ImageError)
    try:
        if path.suffix.lower() == ".npy":
            images, labels = np.load(path, mmap_mode="r", allow_pickle=False), None
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays[IMAGES_KEY], arrays.get(LABELS_KEY)
    except KeyError:
        raise ImageError(
            f"image array {path} holds no {IMAGES_KEY!r}. "
            f"Save it with: numpy.savez(PATH, {IMAGES_KEY}=..., {LABELS_KEY}=...)"
        ) from None
    except Exception as error:  # what is read was made elsewhere, and may be anything
        reason = shorten(" ".join(str(error).split())) or type(error).__name__
        raise ImageError(f"image array {path} cannot be read: {reason}") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ImageError(
            f"image array {path}: got {images.dtype} {images.shape}, "
            "expected uint8 (N, H, W, 3), RGB from 0 to 255"
        )
    if labels is None:
        return ArraySource(images, labels=wanted.labels)
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
