"""Which boxes, and which queries, of two sets of outputs stand for the same objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.detection.decoding import BOXES, probabilities
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, IntArray

MIN_IOU = 0.5  # least IoU of two boxes that can be the same object

VISIBLE = 0.05  # least probability of a query that a threshold in use may show

_SAME_QUERY = 1e-3  # largest difference, as a share of the largest output, of a query from itself

_OTHER_QUERIES = 0.02  # most of an image's queries that may be others, one at least


def match(overlaps: Float64Array, is_same: BoolArray) -> list[tuple[int, int, float]]:
    """Return pairs of objects of the same class, whose IoU is at least `MIN_IOU`, and that IoU.

    The first row chooses first, the column that overlaps most with it; each is in one pair at most.
    `overlaps` has the IoU of each two, `is_same` whether they are of one class, (reference,
    candidate) both.
    """
    left, pairs = np.where(is_same, overlaps, 0), []
    for index in range(len(left) if left.size else 0):
        other = int(left[index].argmax())
        if left[index, other] >= MIN_IOU:
            pairs.append((index, other, float(left[index, other])))
            left[:, other] = 0
    return pairs


def align(
    spec: ModelSpec,
    reference: Outputs,
    candidate: Outputs,
    distances: Callable[[Outputs, Outputs], Float64Array] | None = None,
) -> tuple[Outputs, Outputs]:
    """Return both outputs with what can be compared element by element, the rest set to zero.

    Detectors that choose their queries by score give the same objects in another order, so the
    candidate's queries are put in the order of the reference's. Queries that show nothing above
    `VISIBLE` in either are left out, unless that would leave none in an image. `distances` of the
    outputs of one image, (queries, queries), count beside the scores; those of boxes where None.
    """
    distances = distances or box_distances
    wanted, got = probabilities(spec, reference), probabilities(spec, candidate)
    names = [output.name for output in spec.outputs]
    ours: dict[str, list[Float64Array]] = {name: [] for name in names}
    theirs: dict[str, list[Float64Array]] = {name: [] for name in names}
    for row in range(len(wanted)):
        best, other = wanted[row].max(axis=1), got[row].max(axis=1)
        first, second = (
            {name: outputs[name][row] for name in names} for outputs in (reference, candidate)
        )
        distance = distances(first, second) + np.abs(wanted[row][:, None] - got[row][None]).max(
            axis=2
        )
        order = _pair_visible(best, other, distance)
        shown = (best >= VISIBLE) | (other[order] >= VISIBLE)
        shown = shown if (best >= VISIBLE).any() else np.ones_like(shown)
        for name in names:
            kept = shown.reshape(-1, *[1] * (first[name].ndim - 1))
            ours[name].append(np.where(kept, first[name], 0.0))
            theirs[name].append(np.where(kept, second[name][order], 0.0))
    return (
        {name: np.stack(rows) for name, rows in ours.items()},
        {name: np.stack(rows) for name, rows in theirs.items()},
    )


def box_distances(reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return how far each two boxes of one image are apart, (queries, queries)."""
    ours, theirs = (np.asarray(each[BOXES], np.float64) for each in (reference, candidate))
    found: Float64Array = np.abs(ours[:, None] - theirs[None]).sum(axis=2)
    return found


def pair_queries(
    reference: Sequence[FloatArray], candidate: Sequence[FloatArray]
) -> list[FloatArray]:
    """Return `candidate` with each query beside the one of `reference` that it stands for.

    A detector that chooses its queries by score has two of nearly equal score in either order, and
    at the end of its choice one or the other. So up to `_OTHER_QUERIES` of an image's queries may
    be others: these are left out of a comparison, the reference standing in their place. Outputs
    are (rows, queries, ...).
    """
    scales = [max(float(np.abs(output).max()), 1e-30) for output in reference]
    paired = [np.array(output) for output in candidate]
    for row in range(len(reference[0])):
        ours, theirs = (
            np.concatenate(
                [
                    each[row].reshape(len(each[row]), -1) / s
                    for each, s in zip(side, scales, strict=True)
                ],
                axis=1,
            )
            for side in (reference, candidate)
        )
        distance = np.stack([np.abs(theirs - query).max(axis=1) for query in ours])
        order = _take_nearest(distance, np.argsort(distance.min(axis=1), kind="stable").tolist())
        apart = distance[np.arange(len(ours)), order]
        most = max(1, int(len(ours) * _OTHER_QUERIES))
        others = [q for q in np.argsort(-apart)[:most].tolist() if apart[q] > _SAME_QUERY]
        for output, given, wanted in zip(paired, candidate, reference, strict=True):
            output[row] = given[row][order]
            output[row][others] = wanted[row][others]
    return paired


def _pair_visible(best: Float64Array, other: Float64Array, distance: Float64Array) -> IntArray:
    """Return for each query of the reference the candidate's that it is compared with.

    Visible ones take the nearest, best first; the rest are paired in order, the candidate's visible
    ones first, so that what only the candidate shows is not passed over.
    """
    by_score = np.argsort(-best, kind="stable").tolist()
    order = _take_nearest(distance, [query for query in by_score if best[query] >= VISIBLE])
    if (order < 0).all():  # nothing to go by: every query for itself
        return np.arange(len(best))
    left = np.setdiff1d(np.arange(len(best)), order)
    order[order < 0] = left[np.argsort(-other[left], kind="stable")]
    return order


def _take_nearest(distance: Float64Array, queries: Sequence[int]) -> IntArray:
    """Return for each of `queries`, in turn, the nearest column that is left; -1 for the others."""
    left, order = distance.copy(), np.full(len(distance), -1, np.int64)
    for query in queries:
        order[query] = left[query].argmin()
        left[:, order[query]] = np.inf
    return order
