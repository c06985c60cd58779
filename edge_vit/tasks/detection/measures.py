"""What is measured of a detector: against the reference alone, and against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.average_precision import AP_DROP, NAMES, summarize_ap
from edge_vit.tasks.detection.decoding import find_boxes
from edge_vit.tasks.detection.matched import pair_measures
from edge_vit.tasks.detection.truth import Objects
from edge_vit.tasks.measures import summed

MOST_FOUND = 100  # objects of an image that COCO's evaluation looks at, the best ones


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
                "dt": [[int(c), float(s), *b.tolist()] for c, s, b in rows][:MOST_FOUND],
                "gt": [[int(c), *b.tolist(), float(a), int(crowd)] for c, b, a, crowd in true],
            }
        )
    return found


MEASURES = (
    *summed({**{name: name for name in NAMES}, AP_DROP: "AP lost"}, records, summarize_ap),
    *pair_measures("boxes", "mean_iou", "score_drift"),
)
