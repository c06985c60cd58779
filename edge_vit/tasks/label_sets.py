"""Labels that are on or off by themselves, held against the truth: mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.bootstrap import bootstrap
from edge_vit.tasks.detection.truth import Objects
from edge_vit.tasks.measures import MeasureValue, summed
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray

MAP, MAP_DROP = "mAP", "mAP_drop"

_RESAMPLES = 200
_MOST_NUMBERS = 200_000_000  # compared in all resamples together: more images need fewer of them
_FEWEST_RESAMPLES = 20


@dataclass(frozen=True)
class LabelSet:
    """The labels that are true of an image, by index; of the `unknown` it is not known."""

    on: frozenset[int]
    unknown: frozenset[int] = frozenset()


def records(
    spec: ModelSpec, outputs: Mapping[str, FloatArray], truth: Sequence[Any]
) -> list[dict[str, Any] | None]:
    """Return scores and true labels of each image, as JSON takes them; None without truth.

    Of annotated objects the labels are those of which there is one at least.
    """
    found: list[dict[str, Any] | None] = []
    for row, true in zip(outputs[spec.outputs[0].name], truth, strict=True):
        if isinstance(true, Objects):
            true = LabelSet(frozenset(map(int, true.classes)))
        if not isinstance(true, LabelSet):
            found.append(None)
            continue
        scores = np.asarray(row, np.float64).tolist()
        found.append({"scores": scores, "on": sorted(true.on), "unknown": sorted(true.unknown)})
    return found


def summarize(candidate: Sequence[Any], reference: Sequence[Any]) -> dict[str, MeasureValue]:
    """Return `MAP` and `MAP_DROP`, each with its 95 % bootstrap interval over images."""
    width = max((len(each["scores"]) for each in candidate if each is not None), default=1)
    resamples = _MOST_NUMBERS // (max(len(candidate), 1) * width)

    def numbers(records: Sequence[Any], weights: IntArray) -> Mapping[str, Float64Array]:
        return {MAP: _Table(records).mean_average_precision(weights)}

    resamples = max(_FEWEST_RESAMPLES, min(_RESAMPLES, resamples))
    return bootstrap(candidate, reference, numbers, (MAP, MAP_DROP), resamples)


class _Table:
    """Scores (images, labels) and the truth of each: 1 where it is on, 0 where not, -1 unknown."""

    def __init__(self, found: Sequence[Mapping[str, Any]]) -> None:
        self.scores = np.array([record["scores"] for record in found], np.float64)
        self.truth = np.zeros(self.scores.shape, np.int8)
        for row, record in zip(self.truth, found, strict=True):
            row[record["on"]] = 1
            row[record["unknown"]] = -1

    def mean_average_precision(self, weights: IntArray) -> Float64Array:
        """Return the mean over labels for each row of `weights`, (resamples, images).

        A label without an image that shows it has no average precision; NaN where none has one.
        """
        columns = zip(self.scores.T, self.truth.T, strict=True)
        each = np.stack([average_precision(*column, weights) for column in columns])
        known = ~np.isnan(each)
        total = np.where(known, each, 0).sum(axis=0)
        return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def average_precision(scores: Float64Array, truth: Any, weights: IntArray) -> Float64Array:
    """Return the average precision of one label for each row of `weights`, NaN without positives.

    The sum over thresholds of precision times the recall gained there, without interpolation; equal
    scores are one threshold. `truth` is 1 where the label is on, 0 where not, below 0 where it is
    not known, (images,); `weights` are how often each image counts, (resamples, images).
    """
    order = np.argsort(-scores, kind="stable")
    order = order[truth[order] >= 0]
    falling = -scores[order]
    last = np.searchsorted(falling, falling, side="right") - 1  # of those with the same score
    counts = weights[:, order].astype(np.float64)
    positives = counts * (truth[order] > 0)
    precision = positives.cumsum(axis=1)[:, last] / np.maximum(counts.cumsum(axis=1)[:, last], 1)
    total = positives.sum(axis=1)
    gained = (positives * precision).sum(axis=1)
    return np.where(total > 0, gained / np.maximum(total, 1), np.nan)


MEASURES = summed({MAP: "mean average precision", MAP_DROP: "mAP lost"}, records, summarize)
