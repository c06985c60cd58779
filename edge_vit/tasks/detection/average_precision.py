"""COCO's average precision, computed by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.optional import require
from edge_vit.tasks.bootstrap import bootstrap
from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.numerics import Float64Array, IntArray

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers, in the order of its own summary; each from 0 to 1."""

AP_DROP = "AP_drop"  # the reference's AP less the candidate's, both over the same images

Record = Mapping[str, Any]
"""One image: ``dt`` rows (class, score, x1, y1, x2, y2), ``gt`` rows (class, x1, y1, x2, y2, area,
crowd), ``size`` (height, width). Of masks, whose overlaps are known: ``dt`` rows (class, score,
area, pairs of the place of a ``gt`` row and the IoU with it), ``gt`` rows (class, area, crowd)."""

_RESAMPLES = 100
_MOST_IMAGES = 20_000  # evaluated in all resamples together: more images need fewer of them
_FEWEST_RESAMPLES = 20


def coco_numbers(records: Sequence[Record]) -> dict[str, float | None]:
    """Return the twelve numbers over all images; None where no object is of that size.

    Raises:
        MissingDependencyError: the library is not installed.
    """
    truth, found = _to_coco(records)
    library = _library()
    evaluator_class = library.COCOeval_faster
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = library.COCO()
        dataset.dataset = truth
        dataset.createIndex()
        if not found:
            return dict.fromkeys(NAMES, 0.0 if truth["annotations"] else None)
        if "overlaps" in found[0]:
            evaluator_class = _with_overlaps(evaluator_class)
        evaluator = evaluator_class(dataset, dataset.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = [float(value) for value in list(evaluator.stats)[: len(NAMES)]]
    return {n: v if v >= 0 else None for n, v in zip(NAMES, values, strict=True)}


def summarize_ap(
    candidate: Sequence[Any], reference: Sequence[Any], prefix: str = ""
) -> dict[str, MeasureValue]:
    """Return the twelve numbers and `AP_DROP`, each with its 95 % bootstrap interval over images.

    Their names begin with `prefix`.
    """

    def numbers(records: Sequence[Record], weights: IntArray) -> Mapping[str, Float64Array]:
        rows = [coco_numbers(_repeated(records, each)) for each in weights]
        return {prefix + n: np.array([row[n] for row in rows], np.float64) for n in NAMES}

    resamples = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_IMAGES // max(len(candidate), 1)))
    names = prefix + NAMES[0], prefix + AP_DROP
    return bootstrap(candidate, reference, numbers, names, resamples)


def _repeated(records: Sequence[Record], counts: IntArray) -> list[Record]:
    return [each for each, count in zip(records, counts, strict=True) for _ in range(count)]


def _to_coco(records: Sequence[Record]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results as COCO's tools take them."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    classes: set[int] = set()
    for number, record in enumerate(records, 1):
        first = len(annotations) + 1
        for index, *box, area, crowd in record["gt"]:
            classes.add(int(index))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(index),
                    "bbox": _sides(*box) if box else [0, 0, area, 1],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
        for index, score, *box in record["dt"]:
            classes.add(int(index))
            entry = {"image_id": number, "category_id": int(index), "score": score}
            if len(box) == 4:
                results.append({**entry, "bbox": _sides(*box)})
            else:
                area, overlaps = box
                known = {first + place: value for place, value in overlaps}
                results.append({**entry, "bbox": [0, 0, area, 1], "overlaps": known})
    truth = {
        "info": {},
        "images": [
            {"id": number, "height": size[0], "width": size[1]}
            for number, size in enumerate((each.get("size", (1, 1)) for each in records), 1)
        ],
        "categories": [{"id": index, "name": str(index)} for index in sorted(classes)],
        "annotations": annotations,
    }
    return truth, results


def _sides(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2 - x1, y2 - y1]


def _with_overlaps(evaluator_class: Any) -> Any:
    """Return an evaluator that takes the overlaps of its results in place of computing them."""

    class Evaluator(evaluator_class):  # type: ignore[misc]
        def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802
            true, found = (
                each.loadAnns(each.getAnnIds(imgIds=[image], catIds=[category]))
                for each in (self.cocoGt, self.cocoDt)
            )
            best = sorted(found, key=lambda each: -each["score"])[: self.params.maxDets[-1]]
            overlaps = [[each["overlaps"][one["id"]] for one in true] for each in best]
            return np.array(overlaps, np.float64) if true and best else []

    return Evaluator


def mask_tools() -> Any:
    """Return the module for masks in run lengths."""
    return _library().mask


def _library() -> Any:
    return require("faster_coco_eval", "COCO average precision")
