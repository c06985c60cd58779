"""Outputs of a segmentation model -> the class of each pixel, and segments.

A model gives the logits of each class on a grid, or for each of some queries a class and a mask on
a grid, as MaskFormer and its successors do. Masks are brought to the model's input first, then to
the image's own pixels, as transformers' post-processing does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_vit.spec import ModelSpec, PreprocessSpec
from edge_vit.tasks.detection.decoding import rank_queries
from edge_vit.tasks.maps.placement import Placed
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, IntArray, activate, sigmoid

LOGITS, CLASSES, MASKS = "logits", "class_logits", "mask_logits"
"""Names of outputs: of a class for each cell; or of the classes and the masks of queries."""

NOTHING = -1
"""The class of a pixel that shows none of them, or that the model did not see."""

MIN_KEPT = 0.8
"""Least share of a panoptic segment that better ones leave of it, else it is dropped."""

ClassMap = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Segment:
    """One object or region.

    Attributes:
        index: of its class.
        score: 0 to 1.
        mask: which pixels it covers, (height, width).
    """

    index: int
    score: float
    mask: BoolArray


def semantic_map(
    spec: ModelSpec,
    outputs: Mapping[str, FloatArray],
    size: tuple[int, int],
    preprocess: PreprocessSpec | None,
) -> ClassMap:
    """Return the likeliest class of each pixel, (height, width).

    Args:
        spec: the model.
        outputs: of one image: logits (classes, rows, columns), or class logits (queries, classes
            and none) and mask logits (queries, rows, columns).
        size: (height, width) of the image.
        preprocess: how it became the model's input; None where it is the input itself, resized.
    """
    if MASKS not in outputs:
        logits = np.asarray(outputs[spec.outputs[0].name], np.float32)
    else:
        shares = activate("softmax", outputs[CLASSES])[:, :-1].astype(np.float32).T
        logits = np.empty((len(shares), *spec.preprocess.image_size), np.float32)
        for part, masks in _in_input(spec, outputs[MASKS]).strips(outputs[MASKS]):
            logits[:, part] = np.tensordot(shares, _shares(masks), 1)
    rows, columns = logits.shape[-2:]
    placed = Placed((rows, columns), size, preprocess)
    possible = _can_win(logits)
    logits = logits[possible]
    found = np.empty(size, np.int32)
    for part, values in placed.strips(logits):
        found[part] = possible[values.argmax(axis=0)]
    found[~placed.seen] = NOTHING
    return found


def instances(
    spec: ModelSpec,
    outputs: Mapping[str, FloatArray],
    size: tuple[int, int],
    preprocess: PreprocessSpec | None,
) -> list[Segment]:
    """Return the objects whose score reaches the model's threshold, best first; they may overlap.

    Arguments as of `semantic_map`.
    """
    found = each_instance(spec, outputs, size, preprocess)
    return sorted(found, key=lambda each: -each.score)


def each_instance(
    spec: ModelSpec,
    outputs: Mapping[str, FloatArray],
    size: tuple[int, int],
    preprocess: PreprocessSpec | None,
) -> Iterator[Segment]:
    """Yield the objects of `instances` in the order of their classes' probabilities.

    With softmax, a score is the probability of the query's class times the mean probability of the
    mask's pixels; with sigmoid it is that of the class alone.
    """
    is_softmax, threshold = spec.activation == "softmax", spec.threshold or 0.0
    queries, classes, scores = rank_queries(spec, outputs, threshold)
    placed, grids = _place_masks(spec, outputs[MASKS][queries], size, preprocess)
    for index, score, grid in zip(classes.tolist(), scores.tolist(), grids, strict=True):
        rows, columns = placed.reach(grid > 0)
        part = placed.part(rows, columns)
        logits = part.whole(grid)
        inside = (logits > 0) & part.seen
        if not inside.any():
            continue
        if is_softmax:
            score *= float(sigmoid(logits[inside]).mean())
        if score >= threshold:
            mask = np.zeros(size, bool)
            mask[rows, columns] = inside
            yield Segment(index, score, mask)


def panoptic(
    spec: ModelSpec,
    outputs: Mapping[str, FloatArray],
    size: tuple[int, int],
    preprocess: PreprocessSpec | None,
) -> Iterator[Segment]:
    """Yield regions and objects, best first, of which each pixel is in one at most.

    A pixel goes to the query whose probability times the pixel's own is the largest. Of a segment
    at least `MIN_KEPT` of its mask have to be left. Arguments as of `semantic_map`.
    """
    queries, classes, scores = rank_queries(spec, outputs, spec.threshold or 0.0)
    if spec.activation == "softmax":  # a query that is likelier to be nothing is nothing
        is_some = scores > activate("softmax", outputs[CLASSES][queries])[:, -1]
        queries, classes, scores = queries[is_some], classes[is_some], scores[is_some]
    if not len(queries):
        return
    placed, grids = _place_masks(spec, outputs[MASKS][queries], size, preprocess)
    owner = np.empty(size, np.int32)
    areas = np.zeros(len(queries), np.int64)
    factors = scores.astype(np.float32)[:, None, None]
    for rows, values in placed.strips(grids):
        shares = _shares(values)
        best = (shares * factors).argmax(axis=0)
        is_mine = np.take_along_axis(shares, best[None], 0)[0] >= 0.5
        owner[rows] = np.where(is_mine, best, NOTHING)
        areas += (shares >= 0.5).sum(axis=(1, 2))
    owner[~placed.seen] = NOTHING
    counts = np.bincount(owner[owner != NOTHING], minlength=len(queries))
    for place in np.flatnonzero(counts > MIN_KEPT * areas).tolist():
        yield Segment(int(classes[place]), float(scores[place]), owner == place)


def numbered(segments: Iterable[Segment], size: tuple[int, int]) -> tuple[ClassMap, IntArray]:
    """Return the number from 1 of the first segment at each pixel, else 0; and the class of each.

    One mask is held at a time, where `segments` are made one by one.
    """
    numbers, classes = np.zeros(size, np.int32), []
    for segment in segments:
        classes.append(segment.index)
        numbers[segment.mask & (numbers == 0)] = len(classes)
    return numbers, np.array(classes, np.int64)


def painted(segments: Iterable[Segment], size: tuple[int, int]) -> ClassMap:
    """Return the class of the first segment at each pixel, else `NOTHING`."""
    return by_class(*numbered(segments, size))


def by_class(numbers: ClassMap, classes: IntArray) -> ClassMap:
    """Return the class of each pixel of what `numbered` returns, else `NOTHING`."""
    return np.append(NOTHING, classes).astype(np.int32)[numbers]


def _place_masks(
    spec: ModelSpec, masks: FloatArray, size: tuple[int, int], preprocess: PreprocessSpec | None
) -> tuple[Placed, FloatArray]:
    """Return mask logits in the model's input, and where that lies in the image."""
    return Placed(spec.preprocess.image_size, size, preprocess), _masks_in_input(spec, masks)


def _masks_in_input(spec: ModelSpec, masks: FloatArray) -> FloatArray:
    """Return mask logits (queries, rows, columns) in the pixels of the model's input."""
    return _in_input(spec, masks).whole(masks)


def _in_input(spec: ModelSpec, masks: FloatArray) -> Placed:
    rows, columns = masks.shape[-2:]
    return Placed((rows, columns), spec.preprocess.image_size, None)


def _shares(logits: FloatArray) -> FloatArray:
    """Return the logistic function in float32, in which whole masks are kept."""
    found: FloatArray = 1 / (1 + np.exp(-np.clip(logits, -80, 80, dtype=np.float32)))
    return found


def _can_win(logits: FloatArray) -> NDArray[np.int32]:
    """Return the classes that may be the likeliest somewhere between the cells of `logits`.

    A value between four cells is at most the largest of them and at least the smallest: a class
    whose largest is below another's smallest everywhere never wins.
    """
    high, low = logits, logits
    for axis in (1, 2):
        if logits.shape[axis] > 1:
            first = [slice(None)] * 3
            second = [slice(None)] * 3
            first[axis], second[axis] = slice(None, -1), slice(1, None)
            high = np.maximum(high[tuple(first)], high[tuple(second)])
            low = np.minimum(low[tuple(first)], low[tuple(second)])
    wins = (high >= low.max(axis=0)).any(axis=(1, 2))
    return np.flatnonzero(wins).astype(np.int32)


def mask_distances(reference: FloatArray, candidate: FloatArray) -> Float64Array:
    """Return 1 - Dice of each pair of soft masks, of logits (Q, h, w) and (R, h, w): (Q, R)."""
    ours, theirs = (sigmoid(each).reshape(len(each), -1) for each in (reference, candidate))
    sizes = np.square(ours).sum(axis=1)[:, None] + np.square(theirs).sum(axis=1)[None]
    found: Float64Array = 1 - 2 * (ours @ theirs.T) / np.maximum(sizes, 1e-12)
    return found
