"""Raw outputs of a detector -> scored boxes, as transformers' post-processing gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.boxes import corners, suppress, to_image
from edge_vit.tasks.numerics import Float64Array, IntArray, activate

BOXES = "boxes"


@dataclass(frozen=True, eq=False)
class Found:
    """The scored boxes of one image, best first."""

    boxes: Float64Array  # corners, (N, 4)
    scores: Float64Array  # (N,), 0 to 1
    classes: IntArray  # index of each box's class, (N,)

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Found:
        """Return the boxes whose score is above `score`."""
        return self.only(np.flatnonzero(self.scores > score))

    def rows(self, size: tuple[int, int]) -> Iterator[tuple[int, float, list[float]]]:
        """Yield class, score and corners of each box, scaled to `size` (width, height)."""
        boxes = (self.boxes * (size * 2)).tolist()
        yield from zip(self.classes.tolist(), self.scores.tolist(), boxes, strict=True)

    def only(self, which: IntArray | list[int]) -> Found:
        """Return the boxes at `which`."""
        return Found(self.boxes[which], self.scores[which], self.classes[which])


def probabilities(spec: ModelSpec, outputs: Outputs) -> Float64Array:
    """Return the probability of each class in each query, (..., queries, classes).

    A softmax has the probability of "no object" last, which is left out.
    """
    assert spec.activation is not None
    values = activate(spec.activation, outputs[spec.outputs[0].name])
    return values[..., :-1] if spec.activation == "softmax" else values


def find_boxes(
    spec: ModelSpec,
    outputs: Outputs,
    size: tuple[int, int] | None = None,
    *,
    min_score: float = 0.0,
    clip: bool = True,
) -> Found:
    """Return the boxes in one image.

    With softmax a query is one object, of its best class; with sigmoid each class of each query
    counts by itself, and the best are taken, as many as there are queries. Equal scores are ordered
    by query. Of boxes that overlap more than the model's `nms` the best of its class stays.

    `outputs` are of one image: class outputs (queries, columns), boxes (queries, 4). `size` is that
    of the image before preprocessing; without it boxes are shares of the input. With `clip` they
    are cut at the image's edges.
    """
    queries, classes, values = rank_queries(spec, outputs, min_score)
    boxes = corners(outputs[BOXES][queries])
    if size is not None:
        boxes = to_image(boxes, size, spec.preprocess, clip=clip)
    found = Found(boxes, values, classes)
    if spec.nms is None:
        return found
    return found.only(suppress(found.boxes, found.classes, spec.nms))


def rank_queries(
    spec: ModelSpec, outputs: Outputs, min_score: float
) -> tuple[IntArray, IntArray, Float64Array]:
    """Return query, class and score of what is above `min_score` in one image, best first.

    For the order and the number see `find_boxes`.
    """
    scores = probabilities(spec, outputs)
    if spec.activation == "softmax":
        queries = np.arange(len(scores))
        classes = scores.argmax(axis=1)
        values = scores[queries, classes]
    else:
        queries, classes = np.divmod(np.arange(scores.size), scores.shape[1])
        values = scores.reshape(-1)
    order = np.argsort(-values, kind="stable")[: len(scores)]
    best = order[values[order] > min_score]
    return queries[best].astype(np.int64), classes[best].astype(np.int64), values[best]
