"""COCO's average precision, computed by faster-coco-eval or pycocotools."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.errors import MissingDependencyError
from edge_vit.optional import require
from edge_vit.tasks.measures import MeasureValue

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, in the order of its own summary; each from 0 to 1."""

AP_DROP = "AP_drop"
"""The reference's AP less the candidate's, both over the same images."""

Record = Mapping[str, Any]
"""One image: ``dt`` rows (class, score, x1, y1, x2, y2), ``gt`` rows (class, x1, y1, x2, y2, area,
crowd), ``size`` (height, width)."""

_RESAMPLES = 100
_MOST_IMAGES = 20_000  # evaluated in all resamples together: more images need fewer of them
_FEWEST_RESAMPLES = 20


def coco_numbers(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the twelve numbers over all images; None where no object is of that size.

    Raises:
        MissingDependencyError: neither library is installed.
    """
    truth, found = _to_coco(records)
    dataset_class, evaluator_class = _load()
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = dataset_class()
        dataset.dataset = truth
        dataset.createIndex()
        if not found:
            return dict.fromkeys(NAMES, 0.0 if truth["annotations"] else None)
        evaluator = evaluator_class(dataset, dataset.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = [float(value) for value in list(evaluator.stats)[: len(NAMES)]]
    return {n: v if v >= 0 else None for n, v in zip(NAMES, values, strict=True)}


def summarize_ap(candidate: Sequence[Any], reference: Sequence[Any]) -> dict[str, MeasureValue]:
    """Return the twelve numbers and `AP_DROP`, each with its 95 % bootstrap interval over images.

    Args:
        candidate: the record of each image; None where there is no truth.
        reference: the same of the reference.
    """
    records = [record for record in candidate if record is not None]
    others = [record for record in reference if record is not None]
    if not records:
        return dict.fromkeys((*NAMES, AP_DROP), MeasureValue(None))
    values = coco_numbers(records)
    baseline = coco_numbers(others) if others else dict.fromkeys(NAMES)
    random = np.random.default_rng(0)
    count = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_IMAGES // len(records)))
    resampled: list[dict[str, float | None]] = []
    drops: list[float] = []
    for _ in range(count if len(records) > 1 else 0):
        chosen = random.integers(0, len(records), len(records))
        resampled.append(coco_numbers([records[index] for index in chosen]))
        if len(others) == len(records):
            before = resampled[-1]
            if others != records:  # as they are where the reference is held against itself
                before = coco_numbers([others[index] for index in chosen])
            drop = _drop(before, resampled[-1])
            drops.extend([] if drop is None else [drop])
    found = {}
    for name, value in values.items():
        seen = [each for numbers in resampled if (each := numbers[name]) is not None]
        low, high = np.percentile(seen, [2.5, 97.5]).tolist() if seen else (None, None)
        is_known = value is not None
        found[name] = MeasureValue(
            value, low if is_known else None, high if is_known else None, baseline[name]
        )
    low, high = np.percentile(drops, [2.5, 97.5]).tolist() if drops else (None, None)
    found[AP_DROP] = MeasureValue(_drop(baseline, values), low, high)
    return found


def _drop(
    reference: Mapping[str, float | None], candidate: Mapping[str, float | None]
) -> float | None:
    before, after = reference[NAMES[0]], candidate[NAMES[0]]
    return None if before is None or after is None else before - after


def _to_coco(records: Sequence[Record]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results as COCO's tools take them."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    classes: set[int] = set()
    for number, record in enumerate(records, 1):
        for index, x1, y1, x2, y2, area, crowd in record["gt"]:
            classes.add(int(index))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(index),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for index, score, x1, y1, x2, y2 in record["dt"]:
            classes.add(int(index))
            results.append(
                {
                    "image_id": number,
                    "category_id": int(index),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": score,
                }
            )
    truth = {
        "info": {},
        "images": [
            {"id": number, "height": record["size"][0], "width": record["size"][1]}
            for number, record in enumerate(records, 1)
        ],
        "categories": [{"id": index, "name": str(index)} for index in sorted(classes)],
        "annotations": annotations,
    }
    return truth, results


def _load() -> tuple[Any, Any]:
    """Return the dataset and the evaluator class of the library that is there."""
    try:
        module = require("faster_coco_eval", "COCO average precision")
    except MissingDependencyError:
        if importlib.util.find_spec("pycocotools") is None:
            raise
        coco = importlib.import_module("pycocotools.coco")
        return coco.COCO, importlib.import_module("pycocotools.cocoeval").COCOeval
    return module.COCO, module.COCOeval_faster
