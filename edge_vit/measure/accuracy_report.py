"""The report of an evaluation: every number from the records and outcomes of the images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_vit.data.bad_images import say_bad
from edge_vit.errors import SpecError
from edge_vit.measure.measured import LABELS_ON, SCORES, Columns, sum_up
from edge_vit.measure.partial import PartialAccuracy, Subject
from edge_vit.measure.records import OUTCOME, RECORD, count_true, digest_of_images, unpack, weigh
from edge_vit.measure.reference import MIN_KAPPA, ReferenceFacts, question_reference
from edge_vit.measure.results import (
    AccuracyReport,
    ClassAccuracy,
    Finding,
    LabelAgreement,
    ScoreError,
)
from edge_vit.measure.statistics import exact_bounds, mcnemar_p, paired_drop_bounds, wilson_interval
from edge_vit.tasks import task_named
from edge_vit.tasks.measures import MeasureValue
from edge_vit.tasks.numerics import BoolArray, IntArray

NUM_BINS = 15  # of the expected calibration error, as Guo et al. 2017 (arXiv 1706.04599) have them

Triples = tuple[tuple[int, int, int], ...]


def report_of(part: PartialAccuracy) -> AccuracyReport:
    """Return all that the images of `part` say, whatever their order."""
    subject, task = part.subject, task_named(part.subject.task)
    records, outcomes = unpack(part.records, RECORD), unpack(part.outcomes, OUTCOME)
    count = len(records)
    if not count:
        raise SpecError("images to evaluate on: got none, expected at least 1")
    known = (records["label"] >= 0) & task.has_classes
    labels, reference, candidate = records["label"][known], records[known], outcomes[known]
    ours, theirs = reference["answer"] == labels, candidate["answer"] == labels
    labelled, right = len(labels), count_true(theirs)
    lost, gained = count_true(ours & ~theirs), count_true(theirs & ~ours)
    evidence = weigh(part.records, part.outcomes, has_classes=task.has_classes)
    unlike = exact_bounds(evidence.num_images - evidence.num_agreeing, evidence.num_images)
    num_agreeing = count_true(outcomes["agrees"])
    agreement = wilson_interval(num_agreeing, count)
    measures = {
        "agreement": MeasureValue(num_agreeing / count, *agreement),
        **sum_up(subject.task, part.measured),
    }
    divergence = outcomes["divergence"] if task.gives_probabilities else None
    confusion = _confusion(labels, candidate["answer"])
    reference_confusion = _confusion(labels, reference["answer"])
    per_label = _label_agreements(part.measured, subject)
    facts = ReferenceFacts(
        reference=subject.reference,
        task=subject.task,
        activation=subject.activation,
        num_outputs=subject.num_outputs,
        labels=subject.model_labels,
        data_labels=subject.labels,
        mean_score=_mean(reference["score"]) if labelled else None,
        accuracy=count_true(ours) / labelled if labelled else None,
    )
    return AccuracyReport(
        backend=subject.backend,
        precision=subject.precision,
        reference=subject.reference,
        num_images=count,
        num_labelled=labelled,
        top1=right / labelled if labelled else None,
        top5=count_true(candidate["is_in_top"]) / labelled if labelled else None,
        reference_top1=facts.accuracy,
        reference_top5=count_true(reference["is_in_top"]) / labelled if labelled else None,
        agreement=num_agreeing / count,
        num_agreeing=num_agreeing,
        cosine_mean=_mean(outcomes["cosine"]),
        cosine_min=float(outcomes["cosine"].min()),
        sqnr_db=sqnr_db(math.fsum(outcomes["signal"]), math.fsum(outcomes["noise"])),
        kl_mean=None if divergence is None else _mean(divergence),
        num_lost=lost,
        num_gained=gained,
        data=subject.data,
        data_digest=digest_of_images(records),
        num_calibrated_on=count_true(records["is_calibrated_on"]),
        worst=tuple(entry.shown for entry in part.worst),
        environment=part.environment,
        agreement_interval=agreement,
        most_drop=unlike.high
        if task.gives_probabilities and not task.disagreement_is_loss
        else None,
        drop=(lost - gained) / labelled if labelled else None,
        drop_interval=paired_drop_bounds(lost, gained, labelled, 0.975) if labelled else None,
        mcnemar_p=mcnemar_p(lost, gained) if labelled else None,
        ece=calibration_error(candidate["score"], theirs) if labelled else None,
        reference_ece=calibration_error(reference["score"], ours) if labelled else None,
        kl_p99=None if divergence is None else _percentile(divergence, 99),
        cosine_p1=1 - _percentile(1 - outcomes["cosine"], 99),
        per_class=_per_class(confusion, reference_confusion, subject.labels),
        confusion=confusion,
        reference_confusion=reference_confusion,
        task=subject.task,
        per_label=per_label,
        label_agreement=(
            math.fsum(each.agreement for each in per_label) / len(per_label) if per_label else None
        ),
        scores=_score_errors(part.measured, subject),
        num_bad=part.num_bad,
        notes=(*part.notes, *say_bad(part.bad, part.num_bad, count + part.num_bad)),
        evidence=evidence,
        measures=measures,
        findings=(
            *nothing_shown(subject, measures),
            *_blind(subject, measures),
            *question_reference(part.records, evidence, facts),
        ),
    )


def nothing_shown(subject: Subject, measures: Mapping[str, MeasureValue]) -> Iterator[Finding]:
    """Yield a finding where the reference shows nothing that could be compared."""
    needed = task_named(subject.task).shown_measure
    if needed and needed not in measures:
        yield Finding(
            "nothing-shown",
            "undecided",
            f"{subject.reference} finds nothing above the model's threshold in any image, so that "
            "there is nothing to compare. Export the model with a lower --threshold, or evaluate "
            "on images that show what it knows.",
        )


def _blind(subject: Subject, measures: Mapping[str, MeasureValue]) -> Iterator[Finding]:
    """Yield a finding where the reference is hardly better than a model that sees nothing."""
    task = task_named(subject.task)
    right, blind = (measures.get(name) for name in (task.right_measure, task.blind_measure))
    if right is None or blind is None or right.reference is None or blind.value is None:
        return
    if right.reference <= blind.value + MIN_KAPPA * (1 - blind.value):
        title = next(each.title for each in task.measures if each.name == task.blind_measure)
        yield Finding(
            "chance",
            "undecided",
            f"{subject.reference} reaches {100 * right.reference:.1f} %, which is not clearly more "
            f"than the {100 * blind.value:.1f} % that is {title}. Check the truth, the weights and "
            "the preprocessing.",
        )


def sqnr_db(signal: float, noise: float) -> float | None:
    """Return ``10 log10(signal / noise)``; None without noise, minus infinity without signal."""
    if noise == 0:
        return None
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def calibration_error(scores: NDArray[np.float64], right: BoolArray) -> float:
    """Return the expected calibration error (Naeini et al. 2015, AAAI), 0 to 1.

    The mean over images of how far, in an image's bin of scores, the share of right predictions is
    from the mean score.
    """
    bins = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = (
        abs(count_true(right[bins == each]) - math.fsum(scores[bins == each]))
        for each in range(NUM_BINS)
    )
    return sum(gaps) / len(scores)


def _mean(values: Iterable[float]) -> float:
    """The mean, rounded once, so that the order of the values does not matter."""
    listed = list(values)
    return math.fsum(listed) / len(listed)


def _percentile(values: NDArray[np.float64], percent: float) -> float:
    """The smallest of `values` that `percent` of them do not exceed."""
    return float(np.sort(values)[math.ceil(percent / 100 * len(values)) - 1])


def _confusion(labels: IntArray, answers: IntArray) -> Triples:
    """(true class, predicted class, images), by class."""
    pairs, counts = np.unique(np.stack([labels, answers]), axis=1, return_counts=True)
    return tuple(zip(*pairs.tolist(), counts.tolist(), strict=True))


def _per_class(
    confusion: Triples, reference: Triples, names: Sequence[str]
) -> tuple[ClassAccuracy, ...]:
    sizes: dict[int, int] = {}
    for true, _, count in confusion:
        sizes[true] = sizes.get(true, 0) + count
    right, ours = (
        {true: count for true, answer, count in each if true == answer}
        for each in (confusion, reference)
    )
    return tuple(
        ClassAccuracy(
            index, _name(names, index), size, right.get(index, 0) / size, ours.get(index, 0) / size
        )
        for index, size in sorted(sizes.items())
    )


def _label_agreements(columns: Columns, subject: Subject) -> tuple[LabelAgreement, ...]:
    """How often each label is on, and the share of images on which both decide it alike."""
    theirs, ours = columns.get(LABELS_ON, ((), ()))

    def count(images: Iterable[Iterable[int]]) -> list[int]:
        indices = np.array([index for image in images for index in image], np.int64)
        counts: list[int] = np.bincount(indices, minlength=subject.num_outputs).tolist()
        return counts

    both = count(set(one) & set(other) for one, other in zip(ours, theirs, strict=True))
    counts = zip(count(ours), count(theirs), both, strict=True)
    return tuple(
        LabelAgreement(
            index,
            _name(subject.labels, index),
            on,
            other,
            (len(ours) - on - other + 2 * same) / len(ours),
        )
        for index, (on, other, same) in enumerate(counts)
        if ours
    )


def _score_errors(columns: Columns, subject: Subject) -> tuple[ScoreError, ...]:
    theirs, ours = (np.array(each, np.float64) for each in columns.get(SCORES, ((), ())))
    if not len(ours):
        return ()
    errors, above = np.abs(ours - theirs), ours >= subject.threshold
    same_side = above == (theirs >= subject.threshold)
    return tuple(
        ScoreError(
            index,
            _name(subject.labels, index),
            mean_error=_mean(errors[:, index]),
            error_deviation=_deviation(errors[:, index]),
            spread=_deviation(ours[:, index]),
            above=count_true(above[:, index]),
            same_side=count_true(same_side[:, index]) / len(ours),
        )
        for index in range(ours.shape[1])
    )


def _deviation(values: NDArray[np.float64]) -> float:
    """The standard deviation; 0 of a single value, and of values that are all alike."""
    if len(values) < 2 or values.min() == values.max():
        return 0.0
    mean = _mean(values)
    return math.sqrt(math.fsum((values - mean) ** 2) / (len(values) - 1))


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if names else str(index)
