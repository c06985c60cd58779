"""Arithmetic of boxes, (..., 4) arrays: corners are (x1, y1, x2, y2), y downwards."""

from __future__ import annotations

import numpy as np

from edge_vit.spec import PreprocessSpec, place
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray


def corners(boxes: FloatArray) -> Float64Array:
    """Return centres and sizes (cx, cy, w, h) as corners."""
    centre, size = np.split(np.asarray(boxes, np.float64), 2, axis=-1)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def to_image(
    boxes: FloatArray, size: tuple[int, int], spec: PreprocessSpec, *, clip: bool = True
) -> Float64Array:
    """Return corners, shares of the model's input, in the pixels of an image of (height, width).

    Resize, padding and crop are undone; with `clip` what lies outside of the image is cut off.
    """
    height, width = spec.image_size
    where = place(size, spec)
    offset = np.array([where.left, where.top] * 2)
    scale = np.array([where.scale_x, where.scale_y] * 2)
    found: Float64Array = (np.asarray(boxes, np.float64) * ([width, height] * 2) - offset) / scale
    if clip:
        found = np.clip(found, 0, [size[1], size[0]] * 2)
    return found


def iou(first: FloatArray, second: FloatArray) -> Float64Array:
    """Return intersection over union of each pair of corners, (N, 4) and (M, 4): (N, M)."""
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    inner = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.clip(inner, 0, None), axis=-1)
    total = area(a) + area(b) - shared
    found: Float64Array = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return found


def area(boxes: FloatArray) -> Float64Array:
    """Return the area of corners (..., 4), 0 where a box is turned inside out."""
    sides = np.asarray(boxes, np.float64)[..., 2:] - np.asarray(boxes, np.float64)[..., :2]
    found: Float64Array = np.prod(np.clip(sides, 0, None), axis=-1)
    return found


def suppress(boxes: FloatArray, classes: IntArray, limit: float) -> list[int]:
    """Return which of `boxes`, best first, stay in a non-maximum suppression per class.

    One goes whose IoU with a better one of its class is above `limit`.
    """
    overlaps, kept = iou(boxes, boxes), list[int]()
    for index in range(len(boxes)):
        same = [other for other in kept if classes[other] == classes[index]]
        if not (overlaps[index, same] > limit).any():
            kept.append(index)
    return kept
