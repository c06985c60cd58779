"""Panoptic quality (Kirillov et al. 2019): segments against true ones, each pixel in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.bootstrap import bootstrap
from edge_vit.tasks.measures import Measure, MeasureValue, summed
from edge_vit.tasks.numerics import Float64Array, IntArray
from edge_vit.tasks.segmentation.decoding import ClassMap
from edge_vit.tasks.segmentation.panoptic_truth import TrueSegments

PQ, SQ, RQ = "PQ", "SQ", "RQ"
"""Panoptic quality, and its factors: of segmentation (mean IoU) and of recognition (F1 score)."""

PQ_THINGS, PQ_STUFF, PQ_DROP = "PQ_things", "PQ_stuff", "PQ_drop"
"""Of things alone, of regions alone; the reference's less the candidate's."""

Quality = list[list[float]]
"""Of one image, for each class: index, 1 for a thing or 0, sum of the IoU of the matches, their
number, and the numbers of found and of true segments without one."""

Numbered = tuple[ClassMap, IntArray]
"""The number from 1 of each pixel's segment, 0 for none, (height, width); the class of each."""

DecodeAt = Callable[[ModelSpec, Outputs, int, "tuple[int, int]"], Numbered]
"""(spec, outputs, row, size) -> the segments of one row in the image's pixels."""


def quality(truth: TrueSegments, segments: Numbered) -> Quality:
    """Return how `segments` match the true ones of one image.

    A match is of the same class, with an IoU above a half; pixels without a true segment count in
    no union. What lies for more than a half on such pixels or in crowds of its class is no error,
    nor is a crowd that is not found. Segments of a class that is known to be no thing are one.
    """
    found, classes = segments
    if truth.things is not None:
        first: dict[int, int] = {}
        joined = [
            number if index in truth.things else first.setdefault(index, number)
            for number, index in enumerate(classes.tolist(), 1)
        ]
        found = np.array([0, *joined])[found]
    sides = len(truth.indices) + 1, len(classes) + 1
    every = np.ravel_multi_index((truth.numbers.reshape(-1), found.reshape(-1)), sides)
    counts = np.bincount(every, minlength=sides[0] * sides[1]).reshape(sides)
    areas, true_areas = counts.sum(axis=0)[1:], counts.sum(axis=1)[1:, None]
    unknown, counts = counts[0, 1:], counts[1:, 1:]
    same = truth.indices[:, None] == classes
    is_crowd = np.array(truth.crowds, bool)[:, None]
    overlaps = np.where(same, counts / np.maximum(true_areas + areas - counts - unknown, 1), 0)
    is_pair = (overlaps > 0.5) & ~is_crowd
    excused = unknown + (counts * (same & is_crowd)).sum(axis=0)
    is_wrong = (areas > 0) & (2 * excused <= areas) & ~is_pair.any(axis=0)
    is_missed = ~is_crowd[:, 0] & (true_areas[:, 0] > 0) & ~is_pair.any(axis=1)
    rows: Quality = []
    for index in sorted({*truth.indices.tolist(), *classes.tolist()}):
        hits = overlaps[is_pair & (classes == index)]
        missed = int(is_missed[truth.indices == index].sum())
        numbers = len(hits), int(is_wrong[classes == index].sum()), missed
        if any(numbers):
            rows.append([index, int(index in (truth.things or ())), float(hits.sum()), *numbers])
    return rows


def summarize(candidate: Sequence[Any], reference: Sequence[Any]) -> dict[str, MeasureValue]:
    """Return every measure here of the `Quality` of each image, the means over classes."""

    def numbers(records: Sequence[Quality], weights: IntArray) -> Mapping[str, Float64Array]:
        rows = [row for record in records for row in record]
        size = 1 + max((int(row[0]) for row in rows), default=0)
        counts, is_thing = np.zeros((len(records), size, 4)), np.zeros(size, bool)
        for image, record in enumerate(records):
            for index, thing, *values in record:
                counts[image, int(index)], is_thing[int(index)] = values, thing
        drawn = np.tensordot(weights, counts, 1)
        found = dict(zip((PQ, SQ, RQ), _means(drawn), strict=True))
        if is_thing.any():  # else what is a thing is not known
            found[PQ_THINGS], found[PQ_STUFF] = (
                _means(drawn[:, part])[0] for part in (is_thing, ~is_thing)
            )
        return found

    return bootstrap(candidate, reference, numbers, (PQ, PQ_DROP))


def _means(counts: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return PQ, SQ and RQ, means over the classes that are found or true, of (..., classes, 4)."""
    overlap, matched, wrong, missed = np.moveaxis(counts, -1, 0)
    whole = matched + (wrong + missed) / 2
    number = (whole > 0).sum(axis=-1)

    def mean(values: Float64Array, over: Float64Array) -> Float64Array:
        shares = np.divide(values, over, out=np.zeros_like(values), where=over > 0).sum(axis=-1)
        found: Float64Array = np.where(number > 0, shares / np.maximum(number, 1), np.nan)
        return found

    return mean(overlap, whole), mean(overlap, matched), mean(matched, whole)


def quality_measures(decode: DecodeAt) -> tuple[Measure, ...]:
    """Return the measures of a task whose segments `decode` makes, what is lost as the last."""

    def judge(spec: ModelSpec, outputs: Outputs, truth: Sequence[Any]) -> list[Any]:
        return [
            quality(true, decode(spec, outputs, row, true.numbers.shape))
            if isinstance(true, TrueSegments)
            else None
            for row, true in enumerate(truth)
        ]

    titles = {
        PQ: "panoptic quality (PQ)",
        SQ: "segmentation quality (SQ)",
        RQ: "recognition quality (RQ)",
        PQ_THINGS: "PQ of things",
        PQ_STUFF: "PQ of stuff",
        PQ_DROP: "PQ lost",
    }
    return summed(titles, judge, summarize)
