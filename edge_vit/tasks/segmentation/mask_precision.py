"""Average precision of masks: COCO's evaluation, on overlaps that are kept in place of masks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.average_precision import AP_DROP, NAMES, mask_tools, summarize_ap
from edge_vit.tasks.detection.measures import MOST_FOUND
from edge_vit.tasks.measures import summed
from edge_vit.tasks.segmentation.decoding import Segment, each_instance
from edge_vit.tasks.segmentation.object_truth import TrueObjects, encode

PREFIX = "mask_"
"""What the names of COCO's numbers begin with, where they are of masks."""


def records(spec: ModelSpec, outputs: Outputs, truth: Sequence[Any]) -> list[Any]:
    """Return found and true objects of each image with their overlaps; None without truth.

    Objects of every score count, in the image's own pixels.
    """
    every = replace(spec, threshold=0.0)
    found: list[Any] = []
    for row, objects in enumerate(truth):
        if not isinstance(objects, TrueObjects):
            found.append(None)
            continue
        own = {output.name: outputs[output.name][row] for output in spec.outputs}
        segments = each_instance(every, own, objects.size, spec.preprocess)
        # one mask at a time: a hundred of a photograph are a gigabyte
        rows = [_overlaps(segment, objects) for segment in segments]
        true = zip(objects.classes, objects.areas, objects.crowds, strict=True)
        found.append(
            {
                "dt": sorted(rows, key=lambda each: -each[1])[:MOST_FOUND],
                "gt": [[index, area, int(crowd)] for index, area, crowd in true],
            }
        )
    return found


def _overlaps(segment: Segment, objects: TrueObjects) -> list[Any]:
    """Return class, score and area of a segment, and its IoU with each true object of its class.

    The IoU with a crowd is the share of the segment that lies in it, as in COCO's evaluation.
    """
    rle = encode(segment.mask)
    same = [place for place, index in enumerate(objects.classes) if index == segment.index]
    found = []
    if same:
        crowds = [int(objects.crowds[place]) for place in same]
        values = mask_tools().iou([rle], [objects.masks[place] for place in same], crowds)[0]
        found = [[place, float(value)] for place, value in zip(same, values, strict=True)]
    return [segment.index, segment.score, int(segment.mask.sum()), found]


MEASURES = summed(
    {**{PREFIX + name: f"mask {name}" for name in NAMES}, PREFIX + AP_DROP: "mask AP lost"},
    records,
    functools.partial(summarize_ap, prefix=PREFIX),
)
