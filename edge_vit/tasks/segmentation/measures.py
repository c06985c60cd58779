"""What is measured of masks: against the reference alone, and against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.bootstrap import bootstrap
from edge_vit.tasks.measures import Measure, MeasureValue
from edge_vit.tasks.numerics import BoolArray, Float64Array, IntArray
from edge_vit.tasks.segmentation.decoding import ClassMap
from edge_vit.tasks.segmentation.truth import TrueMask

MIOU, ACCURACY, DROP = "mIoU", "pixel_accuracy", "mIoU_drop"
"""Against the truth; the last is the reference's mean IoU less the candidate's."""

OF_FP32, AGREEMENT, LOST = "mIoU_fp32", "pixel_agreement", "pixels_lost"
"""Against the reference: mean IoU, and shares of pixels of the same and of another class."""

_NEAR = 0.01  # of the diagonal: how far a boundary may be from where it should be

Decode = Callable[[ModelSpec, Outputs], Sequence[ClassMap]]
"""(spec, outputs) -> the class map of each row in the pixels of the model's input."""

DecodeAt = Callable[[ModelSpec, Outputs, int, "tuple[int, int]"], ClassMap]
"""(spec, outputs, row, size) -> the class map of one row in the image's pixels."""


def confusion(reference: ClassMap, candidate: ClassMap, ignored: BoolArray) -> list[list[int]]:
    """Return [class, pixels of it in both, in `candidate`, in `reference`] of each class in either.

    Pixels that are `ignored` count nowhere; `NOTHING` is no class.
    """
    ours, theirs = reference[~ignored], candidate[~ignored]
    both = ours[ours == theirs]
    size = int(max(ours.max(initial=0), theirs.max(initial=0))) + 1
    counts = [np.bincount(each[each >= 0], minlength=size) for each in (both, theirs, ours)]
    shown = np.flatnonzero(counts[1] + counts[2])
    return [[int(index), *(int(each[index]) for each in counts)] for index in shown]


def boundary_agreement(reference: ClassMap, candidate: ClassMap, distance: int) -> float:
    """Return the F-score of boundaries between classes that lie within `distance` pixels.

    NaN where neither map has a boundary.
    """
    ours, theirs = _edges(reference), _edges(candidate)
    if not ours.any() and not theirs.any():
        return float("nan")
    if not ours.any() or not theirs.any():
        return 0.0
    precision = float(_widened(ours, distance)[theirs].mean())
    recall = float(_widened(theirs, distance)[ours].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edges(classes: ClassMap) -> BoolArray:
    """Return the pixels whose right or lower neighbour is of another class."""
    found = np.zeros(classes.shape, bool)
    found[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    found[:-1] |= classes[:-1] != classes[1:]
    return found


def _widened(edges: BoolArray, distance: int) -> BoolArray:
    """Return the pixels of which an edge is within `distance` rows and columns."""
    found = edges
    for axis in (0, 1):
        sums = np.cumsum(
            np.pad(found, [(1, 0) if a == axis else (0, 0) for a in (0, 1)]), axis=axis
        )
        at = np.arange(found.shape[axis])
        ends = np.minimum(at + distance + 1, found.shape[axis]), np.maximum(at - distance, 0)
        found = np.take(sums, ends[0], axis) > np.take(sums, ends[1], axis)
    return found


def _total(records: Sequence[Any]) -> Float64Array:
    """Return pixels (images, classes, 3): in both, found, true."""
    size = 1 + max((entry[0] for record in records for entry in record), default=0)
    counts = np.zeros((len(records), size, 3))
    for row, record in enumerate(records):
        for index, *pixels in record:
            counts[row, index] = pixels
    return counts


def _mean_iou(counts: Float64Array) -> Float64Array:
    """Return the mean IoU over the classes that are found or true, of (..., classes, 3)."""
    both, found, true = np.moveaxis(counts, -1, 0)
    union = found + true - both
    shares = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    number = (union > 0).sum(axis=-1)
    mean: Float64Array = shares.sum(axis=-1) / np.maximum(number, 1)
    return np.where(number > 0, mean, np.nan)


def _accuracy(counts: Float64Array) -> Float64Array:
    """Return the share of the true pixels that are found, of (..., classes, 3)."""
    total = counts[..., 2].sum(axis=-1)
    shares: Float64Array = counts[..., 0].sum(axis=-1) / np.maximum(total, 1)
    return np.where(total > 0, shares, np.nan)


def summarize_truth(candidate: Sequence[Any], reference: Sequence[Any]) -> dict[str, MeasureValue]:
    """Return mean IoU, pixel accuracy and what is lost of the first, with bootstrap intervals.

    Args:
        candidate: the counts of each image, see `confusion`; None where there is no truth.
        reference: the same of the reference.
    """

    def numbers(records: Sequence[Any], weights: IntArray) -> Mapping[str, Float64Array]:
        drawn = np.tensordot(weights, _total(records), 1)
        return {MIOU: _mean_iou(drawn), ACCURACY: _accuracy(drawn)}

    return bootstrap(candidate, reference, numbers, (MIOU, DROP))


def summarize_fp32(candidate: Sequence[Any], _: Sequence[Any]) -> dict[str, MeasureValue]:
    """Return mean IoU against the reference, the share of equal pixels, and that of the others."""

    def numbers(records: Sequence[Any], weights: IntArray) -> Mapping[str, Float64Array]:
        drawn = np.tensordot(weights, _total([each for _, each in records]), 1)
        equal = weights @ np.array([share for share, _ in records]) / len(records)
        return {OF_FP32: _mean_iou(drawn), AGREEMENT: equal, LOST: 1 - equal}

    return bootstrap(candidate, (), numbers)


def measures_of(decode: Decode, decode_at: DecodeAt) -> tuple[Measure, ...]:
    """Return the measures of a task whose class maps these functions make."""

    def judge(spec: ModelSpec, outputs: Mapping[str, Any], truth: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        for row, mask in enumerate(truth):
            if not isinstance(mask, TrueMask):
                found.append(None)
                continue
            height, width = mask.classes.shape
            classes = decode_at(spec, outputs, row, (height, width))
            found.append(confusion(mask.classes, classes, mask.ignored))
        return found

    def compare(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> list[Any]:
        pairs = zip(decode(spec, reference), decode(spec, candidate), strict=True)
        return [
            [float((a == b).mean()), confusion(a, b, np.zeros(a.shape, bool))] for a, b in pairs
        ]

    def boundaries(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> list[float]:
        pairs = zip(decode(spec, reference), decode(spec, candidate), strict=True)
        return [
            boundary_agreement(a, b, max(1, round(_NEAR * np.hypot(*a.shape)))) for a, b in pairs
        ]

    def of(name: str, title: str, base: str, **more: Any) -> Measure:
        summarize = summarize_truth if base == MIOU else summarize_fp32
        return Measure(name, title, unit="share", summarize=summarize, of=base, **more)

    return (
        of(MIOU, "mean IoU", MIOU, judge=judge),
        of(ACCURACY, "pixel accuracy", MIOU),
        of(DROP, "mean IoU lost", MIOU),
        of(AGREEMENT, "pixels as fp32 has them", OF_FP32),
        of(OF_FP32, "mean IoU with fp32's masks", OF_FP32, compare=compare),
        of(LOST, "pixels of another class than fp32's", OF_FP32, has_row=False),
        Measure("boundary_agreement", "boundaries as fp32 has them", boundaries, unit="share"),
    )
