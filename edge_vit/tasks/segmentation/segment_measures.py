"""What is measured of segments against those of the reference, as it is of a detector's boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.matching import MIN_IOU
from edge_vit.tasks.measures import Measure
from edge_vit.tasks.numerics import Float64Array
from edge_vit.tasks.segmentation.decoding import Segment

MATCHED = "matched_segments"

Pairs = Sequence[tuple[int, int, float]]
DecodeSegments = Callable[[ModelSpec, Outputs, int], Sequence[Segment]]
"""(spec, outputs, row) -> the segments of one row in the pixels of the model's input."""


def match_segments(reference: Sequence[Segment], candidate: Sequence[Segment]) -> Pairs:
    """Return pairs of segments of the same class and their IoU of at least `MIN_IOU`.

    The reference's best segment chooses first; each is in one pair at most.
    """
    if not reference or not candidate:
        return []
    ours, theirs = (
        np.stack([each.mask.reshape(-1) for each in side]).astype(np.float32)
        for side in (reference, candidate)
    )
    shared = (ours @ theirs.T).astype(np.float64)
    overlaps = shared / (ours.sum(axis=1)[:, None] + theirs.sum(axis=1)[None] - shared)
    is_other = [[a.index != b.index for b in candidate] for a in reference]
    overlaps[np.array(is_other)] = 0
    pairs = []
    for index in range(len(reference)):
        other = int(overlaps[index].argmax())
        if overlaps[index, other] >= MIN_IOU:
            pairs.append((index, other, float(overlaps[index, other])))
            overlaps[:, other] = 0
    return pairs


def segment_measures(decode: DecodeSegments) -> tuple[Measure, ...]:
    """Return the measures of a task whose segments `decode` makes."""

    def of_pairs(
        of: Callable[[Sequence[Segment], Sequence[Segment], Pairs], float],
    ) -> Callable[..., Float64Array]:
        def compare(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
            values = []
            for row in range(len(reference[spec.outputs[0].name])):
                ours, theirs = decode(spec, reference, row), decode(spec, candidate, row)
                values.append(of(ours, theirs, match_segments(ours, theirs)))
            return np.array(values, np.float64)

        return compare

    def share(ours: Sequence[Segment], theirs: Sequence[Segment], pairs: Pairs) -> float:
        return len(pairs) / len(ours) if ours else np.nan

    def added(ours: Sequence[Segment], theirs: Sequence[Segment], pairs: Pairs) -> float:
        return 1 - len(pairs) / len(theirs) if theirs else np.nan

    def overlap(ours: Sequence[Segment], theirs: Sequence[Segment], pairs: Pairs) -> float:
        return float(np.mean([iou for _, _, iou in pairs])) if pairs else np.nan

    def drift(ours: Sequence[Segment], theirs: Sequence[Segment], pairs: Pairs) -> float:
        drifts = [theirs[j].score - ours[i].score for i, j, _ in pairs]
        return float(np.mean(drifts)) if drifts else np.nan

    kinds: tuple[tuple[str, str, Any, Any], ...] = (
        (MATCHED, "segments of fp32 matched", share, "share"),
        ("added_segments", "segments that fp32 has not", added, "share"),
        ("mean_mask_iou", "mean IoU of the matches", overlap, "number"),
        ("segment_score_drift", "mean difference of their scores", drift, "number"),
    )
    return tuple(Measure(name, title, of_pairs(of), unit=unit) for name, title, of, unit in kinds)
