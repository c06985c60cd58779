"""What is measured of a detector: against the reference alone, and against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.average_precision import AP_DROP, NAMES, summarize_ap
from edge_vit.tasks.detection.decoding import BOXES, Found, find_boxes
from edge_vit.tasks.detection.matching import match_boxes
from edge_vit.tasks.detection.truth import Objects
from edge_vit.tasks.measures import Measure
from edge_vit.tasks.numerics import Float64Array

_MOST_BOXES = 100  # of an image that COCO's evaluation looks at


def shown(spec: ModelSpec, outputs: Outputs, row: int) -> Found:
    """Return the boxes above the model's threshold in the image of `row`, shares of the input."""
    own = {output.name: outputs[output.name][row] for output in spec.outputs}
    return find_boxes(spec, own, min_score=spec.threshold or 0.0)


def matched_share(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the share of the reference's boxes that are matched, NaN where it has none."""
    return _of_pairs(spec, reference, candidate, _share)


def mean_iou(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the mean IoU of the matches, NaN where there are none."""
    return _of_pairs(spec, reference, candidate, _iou)


def score_drift(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the mean difference of the scores of matches, NaN where there are none."""
    return _of_pairs(spec, reference, candidate, _drift)


def added_share(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the share of the candidate's boxes without a match, NaN where it has none."""
    return 1 - _of_pairs(spec, candidate, reference, _share)


def records(spec: ModelSpec, outputs: Outputs, truth: Sequence[Any]) -> list[Any]:
    """Return found and true boxes of each image in its own pixels; None without truth."""
    found: list[Any] = []
    for row, objects in enumerate(truth):
        if not isinstance(objects, Objects):
            found.append(None)
            continue
        own = {output.name: outputs[output.name][row] for output in spec.outputs}
        boxes = find_boxes(spec, own, objects.size)
        rows = zip(boxes.classes, boxes.scores, boxes.boxes, strict=True)
        true = zip(objects.classes, objects.boxes, objects.areas, objects.crowds, strict=True)
        found.append(
            {
                "size": list(objects.size),
                "dt": [[int(c), float(s), *b.tolist()] for c, s, b in rows][:_MOST_BOXES],
                "gt": [[int(c), *b.tolist(), float(a), int(crowd)] for c, b, a, crowd in true],
            }
        )
    return found


def _of_pairs(spec: ModelSpec, reference: Outputs, candidate: Outputs, of: Any) -> Float64Array:
    values = []
    for row in range(len(reference[BOXES])):
        ours, theirs = (shown(spec, each, row) for each in (reference, candidate))
        values.append(of(ours, theirs, match_boxes(ours, theirs)))
    return np.array(values, np.float64)


def _share(ours: Found, theirs: Found, pairs: Sequence[tuple[int, int, float]]) -> float:
    return len(pairs) / len(ours) if len(ours) else np.nan


def _iou(ours: Found, theirs: Found, pairs: Sequence[tuple[int, int, float]]) -> float:
    return float(np.mean([overlap for _, _, overlap in pairs])) if pairs else np.nan


def _drift(ours: Found, theirs: Found, pairs: Sequence[tuple[int, int, float]]) -> float:
    drifts = [theirs.scores[j] - ours.scores[i] for i, j, _ in pairs]
    return float(np.mean(drifts)) if drifts else np.nan


MEASURES = (
    *(
        Measure(
            name,
            name,
            judge=records if name == NAMES[0] else None,
            unit="share",
            summarize=summarize_ap,
            of=NAMES[0],
        )
        for name in NAMES
    ),
    Measure(
        AP_DROP,
        "AP lost",
        unit="share",
        summarize=summarize_ap,
        of=NAMES[0],
    ),
    Measure("matched_boxes", "boxes of fp32 matched", matched_share, unit="share"),
    Measure("added_boxes", "boxes that fp32 has not", added_share, unit="share"),
    Measure("mean_iou", "mean IoU of the matches", mean_iou),
    Measure("score_drift", "mean difference of their scores", score_drift),
)
