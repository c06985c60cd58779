"""From one record per image to the counts that decide, and to what questions an evaluation."""

from __future__ import annotations

import numpy as np

from edge_vit.measure.findings import Evidence, Finding
from edge_vit.measure.metrics import BoolArray, FloatArray
from edge_vit.measure.records import (
    AGREES,
    CANDIDATE_RIGHT,
    CONFLICTING,
    LOG_PROBABILITIES,
    PROBABILITIES,
    REFERENCE_RIGHT,
    Clusters,
    Records,
    find_clusters,
    unpack_outcomes,
    unpack_records,
)
from edge_vit.measure.reference import ReferenceFacts, Sureness, question

_CONSTANT = 1e-5
"""Share of an output's length below which a difference is rounding."""


def weigh(records: str, outcomes: str) -> Evidence:
    """Return the counts over the images that decide.

    Args:
        records: of every image, packed: see `edge_vit.measure.records`.
        outcomes: of the candidate on every image, packed.
    """
    clusters = find_clusters(records)
    counts = ~clusters.is_calibrated_on
    bits = unpack_outcomes(outcomes)[clusters.leaders][counts]
    is_labelled = clusters.labels[counts] >= 0
    agrees, right, candidate_right = (
        (bits & bit) > 0 for bit in (AGREES, REFERENCE_RIGHT, CANDIDATE_RIGHT)
    )
    num_images, num_distinct = len(clusters.cluster_of), len(clusters.leaders)
    return Evidence(
        num_distinct=num_distinct,
        num_exact_copies=clusters.num_exact_copies,
        num_near_copies=num_images - num_distinct - clusters.num_exact_copies,
        num_conflicting=int(np.count_nonzero(clusters.labels == CONFLICTING)),
        num_calibrated_on=int(np.count_nonzero(clusters.is_calibrated_on)),
        num_images=int(np.count_nonzero(counts)),
        num_labelled=int(np.count_nonzero(is_labelled)),
        num_agreeing=int(np.count_nonzero(agrees)),
        num_reference_right=int(np.count_nonzero(right & is_labelled)),
        num_lost=int(np.count_nonzero(right & ~candidate_right & is_labelled)),
        num_gained=int(np.count_nonzero(candidate_right & ~right & is_labelled)),
    )


def question_reference(
    records: str, evidence: Evidence, facts: ReferenceFacts
) -> tuple[Finding, ...]:
    """Return what questions the evaluation of these images.

    Args:
        records: of every image, packed.
        evidence: what `weigh` makes of them.
        facts: of the model and its data; what the records tell is filled in here.
    """
    rows, clusters = unpack_records(records), find_clusters(records)
    leaders = clusters.leaders[~clusters.is_calibrated_on]
    labels = clusters.labels[~clusters.is_calibrated_on]
    known = labels >= 0
    pairs, counts = np.unique(
        np.stack([labels[known], rows["answer"][leaders][known].astype(np.int64)]),
        axis=1,
        return_counts=True,
    )
    return question(
        evidence,
        facts,
        confusion={
            (int(true), int(answer)): int(count)
            for (true, answer), count in zip(pairs.T, counts, strict=True)
        },
        num_answers=len(np.unique(rows["answer"][leaders])),
        is_constant=_is_constant(rows, clusters),
        looks_like=_common_look(rows),
        sureness=_sureness(
            rows["margin"][leaders][known], (labels == rows["answer"][leaders])[known]
        ),
    )


def _is_constant(rows: Records, clusters: Clusters) -> bool:
    """Whether the reference's outputs are the same for all different pictures, two at least."""
    projection = rows["projection"][clusters.leaders].astype(np.float64)
    if len(projection) < 2:
        return False
    return bool(np.ptp(projection) <= _CONSTANT * rows["norm"][clusters.leaders].max())


def _sureness(margins: FloatArray, right: BoolArray) -> Sureness | None:
    """Whether the margins of right predictions are above those of wrong ones; None without both."""
    num_right, num_wrong = int(np.count_nonzero(right)), int(np.count_nonzero(~right))
    if not num_right or not num_wrong:
        return None
    _, place, counts = np.unique(margins, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    below = float(ranks[right].sum()) - num_right * (num_right + 1) / 2
    return Sureness(below / (num_right * num_wrong), num_right, num_wrong)


def _common_look(rows: Records) -> str:
    """What every row of the reference's outputs is: probabilities, their logarithms, or neither."""
    flags = int(np.bitwise_and.reduce(rows["scores"]))
    if flags & PROBABILITIES:
        return "probabilities"
    return "log-probabilities" if flags & LOG_PROBABILITIES else ""
