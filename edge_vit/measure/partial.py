"""What some of the images said of one precision: parts merge to the whole and become a report."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_vit.data.bad_images import NUM_NAMED, say_bad
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.measure.evidence import question_reference, weigh
from edge_vit.measure.exact import add_totals, digest_of_total, quotient
from edge_vit.measure.findings import Finding
from edge_vit.measure.measured import sum_up
from edge_vit.measure.metrics import sqnr_db
from edge_vit.measure.paired import bootstrap_interval, mcnemar_p, tango_interval
from edge_vit.measure.records import join_packed
from edge_vit.measure.reference import ReferenceFacts
from edge_vit.measure.results import AccuracyReport, ClassAccuracy, Environment
from edge_vit.measure.statistics import exact_bounds, wilson_interval
from edge_vit.measure.tally import AnswerTally, Counts, Tally, merge_tallies, percentile_of
from edge_vit.measure.task_tallies import label_agreements, mean_agreement, score_errors
from edge_vit.measure.worst import Kept, worst_of
from edge_vit.spec import Activation, Precision, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.measures import MeasureValue
from edge_vit.values import from_json, parse_json, to_json

PARTIAL_FORMAT = 2
"""What this version reads and writes; format 1 had no records of images."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: parts merge only where all of it is the same.

    Attributes:
        bundle_digest: SHA-256 of the bundle's manifest; empty where there is no bundle.
        backend: of the candidate.
        precision: of the candidate.
        reference: precision and backend of the reference.
        labels: class names by index.
        data: where the images are from.
        num_worst: how many of the worst images are kept.
        activation: what turns the model's outputs into probabilities.
        num_outputs: of the model.
        model_labels: the model's own class names.
    """

    bundle_digest: str
    task: TaskName
    backend: str
    precision: Precision
    reference: str
    labels: tuple[str, ...]
    data: str
    num_worst: int
    activation: Activation = "softmax"
    num_outputs: int = 0
    model_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartialAccuracy:
    """The totals over some of the images.

    Attributes:
        part: which of how many, counted from 1; (1, 1) for all.
        images: a number that stands for the set of images: see `edge_vit.measure.exact.add_digest`.
        num_calibrated_on: how many of the images were also calibrated on.
        worst: images with the largest divergence, worst first.
        environment: where it was measured.
        num_bad: images that could not be read and were left out.
        bad: the errors of the first of them, in alphabetical order.
        max_bad: how many may be left out, of the images of all parts.
        notes: what the source of the images says of how they were read.
        records: of each image: see `edge_vit.measure.records`.
        outcomes: of the candidate on each image, likewise.
    """

    subject: Subject
    part: tuple[int, int]
    environment: Environment
    images: int = 0
    num_calibrated_on: int = 0
    tally: Tally = field(default_factory=Tally)
    worst: tuple[Kept, ...] = ()
    records: str = ""
    outcomes: str = ""
    format: int = PARTIAL_FORMAT
    num_bad: int = 0
    bad: tuple[str, ...] = ()
    max_bad: int = 0
    notes: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the content of a part's file."""
        return (json.dumps(to_json(self), indent=1) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the part to `path`, completely or not at all."""
        write_atomically(path, self.to_bytes())


def read_partial(path: Path) -> PartialAccuracy:
    """Return the part that was written to `path`.

    Raises:
        ArtifactError: there is none, it is no part, or of a format that this version does not know.
    """
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"part {path} cannot be read: {error.strerror}. "
            "Make one with: edgevit eval BUNDLE --data DIR --shard 1/4 -o FILE"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{path} is no part of an evaluation: {error}") from None
    if not isinstance(data, dict) or data.get("format") != PARTIAL_FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise ArtifactError(
            f"{path}: format {found} of a part, this edge-vit reads {PARTIAL_FORMAT}. "
            "Parts come from: edgevit eval --shard 1/4 -o FILE"
        )
    try:
        return from_json(PartialAccuracy, data, str(path))
    except SpecError as error:
        raise ArtifactError(f"{path} is no part of an evaluation: {error}") from None


def merge_partials(parts: Sequence[PartialAccuracy]) -> PartialAccuracy:
    """Return the totals over the images of all `parts`, whatever their order.

    Raises:
        SpecError: there are none, some are missing or there twice, or they are of unlike things.
    """
    if not parts:
        raise SpecError("parts to merge: got none, expected every one of an evaluation")
    ordered = sorted(parts, key=lambda part: part.part)
    _check_together(ordered)
    merged = functools.reduce(_merge_two, ordered)
    if merged.num_bad > merged.max_bad:
        raise SpecError(
            f"parts to merge: {merged.num_bad:,} images cannot be read, expected at most "
            f"{merged.max_bad:,} of all parts together, such as {merged.bad[0]}"
        )
    return dataclasses.replace(merged, part=(1, 1))


def report_of(part: PartialAccuracy) -> AccuracyReport:
    """Return all that the totals of `part` say."""
    subject, tally = part.subject, part.tally
    count, labelled = tally.num_images, tally.num_labelled
    if not count:
        raise SpecError("images to evaluate on: got none, expected at least 1")
    has_probabilities = task_named(subject.task).gives_probabilities
    lost, gained = tally.num_lost, tally.num_gained
    right, reference_right = (num_right(side) for side in (tally.candidate, tally.reference))
    evidence = weigh(part.records, part.outcomes)
    unlike = exact_bounds(evidence.num_images - evidence.num_agreeing, evidence.num_images)
    measures = _measures(part, subject.task)
    return AccuracyReport(
        backend=subject.backend,
        precision=subject.precision,
        reference=subject.reference,
        num_images=count,
        num_labelled=labelled,
        top1=right / labelled if labelled else None,
        top5=tally.candidate.top5 / labelled if labelled else None,
        reference_top1=reference_right / labelled if labelled else None,
        reference_top5=tally.reference.top5 / labelled if labelled else None,
        agreement=tally.num_agreeing / count,
        num_agreeing=tally.num_agreeing,
        cosine_mean=quotient(tally.cosine, count),
        cosine_min=tally.cosine_min,
        sqnr_db=sqnr_db(quotient(tally.signal), quotient(tally.noise)),
        kl_mean=quotient(tally.kl, count) if has_probabilities else None,
        num_lost=lost,
        num_gained=gained,
        data=subject.data,
        data_digest=digest_of_total(part.images, count),
        num_calibrated_on=part.num_calibrated_on,
        worst=tuple(entry.shown for entry in part.worst),
        environment=part.environment,
        agreement_interval=wilson_interval(tally.num_agreeing, count),
        most_drop=unlike.high if has_probabilities else None,
        drop=(lost - gained) / labelled if labelled else None,
        drop_interval=tango_interval(lost, gained, labelled) if labelled else None,
        drop_bootstrap=bootstrap_interval(lost, gained, labelled) if labelled else None,
        mcnemar_p=mcnemar_p(lost, gained) if labelled else None,
        ece=calibration_error(tally.candidate) if labelled else None,
        reference_ece=calibration_error(tally.reference) if labelled else None,
        kl_p99=percentile_of(tally.divergences, 99) if has_probabilities else None,
        cosine_p1=1 - percentile_of(tally.distances, 99),
        per_class=_per_class(tally, subject.labels),
        confusion=_triples(tally.candidate.confusion),
        reference_confusion=_triples(tally.reference.confusion),
        task=subject.task,
        per_label=label_agreements(tally.labels, count, subject.labels),
        label_agreement=mean_agreement(tally.labels, count),
        scores=score_errors(tally.scores, count, subject.labels),
        num_bad=part.num_bad,
        notes=(*part.notes, *say_bad(part.bad, part.num_bad, count + part.num_bad)),
        evidence=evidence,
        measures=measures,
        findings=(
            *_nothing_shown(subject, measures),
            *question_reference(part.records, evidence, _facts(subject, tally)),
        ),
    )


def _nothing_shown(subject: Subject, measures: Mapping[str, MeasureValue]) -> Iterator[Finding]:
    needed = task_named(subject.task).shown_measure
    if needed and needed not in measures:
        yield Finding(
            "nothing-shown",
            "undecided",
            f"{subject.reference} finds nothing above the model's threshold in any image, so that "
            "there is nothing to compare. Export the model with a lower --threshold, or evaluate "
            "on images that show what it knows.",
        )


def _measures(part: PartialAccuracy, task: TaskName) -> dict[str, MeasureValue]:
    tally, count = part.tally, part.tally.num_images
    share = tally.num_agreeing / count
    agreement = MeasureValue(share, *wilson_interval(tally.num_agreeing, count))
    return {"agreement": agreement, **sum_up(task, tally.measured)}


def _facts(subject: Subject, tally: Tally) -> ReferenceFacts:
    count, answers = tally.num_labelled, tally.reference
    return ReferenceFacts(
        reference=subject.reference,
        task=subject.task,
        activation=subject.activation,
        num_outputs=subject.num_outputs,
        labels=subject.model_labels,
        data_labels=subject.labels,
        mean_score=quotient(sum(answers.bin_score.values()), count) if count else None,
        accuracy=num_right(answers) / count if count else None,
    )


def find_mismatch(one: Subject, other: Subject) -> str | None:
    """Return in words the first thing in which two subjects differ, None where in none."""
    for each in dataclasses.fields(Subject):
        first, second = getattr(one, each.name), getattr(other, each.name)
        if first != second:
            return f"{each.name} is {first!r} in one and {second!r} in the other"
    return None


def num_right(answers: AnswerTally) -> int:
    """Return how many images were answered with their class."""
    return sum(count for true, answered, count in _triples(answers.confusion) if true == answered)


def calibration_error(answers: AnswerTally) -> float:
    """Return the expected calibration error, 0 to 1.

    The mean over images of how far, in an image's bin of scores, the share of right answers is from
    the mean score (Naeini et al. 2015, AAAI).
    """
    gaps = (
        abs(answers.bin_right[place] - quotient(answers.bin_score[place]))
        for place in sorted(answers.bin_images, key=int)
    )
    return sum(gaps) / sum(answers.bin_images.values())


def _merge_two(first: PartialAccuracy, second: PartialAccuracy) -> PartialAccuracy:
    return dataclasses.replace(
        first,
        images=add_totals(first.images, second.images),
        num_calibrated_on=first.num_calibrated_on + second.num_calibrated_on,
        tally=merge_tallies(first.tally, second.tally),
        worst=worst_of((*first.worst, *second.worst), first.subject.num_worst),
        num_bad=first.num_bad + second.num_bad,
        bad=tuple(sorted((*first.bad, *second.bad)))[:NUM_NAMED],
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
        records=join_packed(first.records, second.records),
        outcomes=join_packed(first.outcomes, second.outcomes),
    )


def _check_together(parts: Sequence[PartialAccuracy]) -> None:
    """Refuse parts that are not the whole of one evaluation; they are sorted."""
    first = parts[0]
    for part in parts[1:]:
        mismatch = find_mismatch(first.subject, part.subject)
        if mismatch:
            raise SpecError(f"parts to merge: {mismatch}, expected parts of one evaluation")
    count = first.part[1]
    got = [part.part for part in parts]
    wanted = [(index, count) for index in range(1, count + 1)]
    if got != wanted:
        spelled = ", ".join(f"{index}/{of}" for index, of in got)
        missing = ", ".join(f"{index}/{of}" for index, of in wanted if (index, of) not in got)
        rest = f"; missing {missing}" if missing else ""
        raise SpecError(f"parts to merge: got {spelled}, expected each of {count} once{rest}")


def _triples(confusion: Counts) -> tuple[tuple[int, int, int], ...]:
    rows = ((*map(int, key.split()), count) for key, count in confusion.items())
    return tuple(sorted((true, answered, count) for true, answered, count in rows))


def _per_class(tally: Tally, labels: Sequence[str]) -> tuple[ClassAccuracy, ...]:
    counts: dict[int, list[int]] = {}  # class -> images, right, right by the reference
    for column, answers in ((1, tally.candidate), (2, tally.reference)):
        for true, answered, count in _triples(answers.confusion):
            row = counts.setdefault(true, [0, 0, 0])
            row[0] += count if column == 1 else 0
            row[column] += count if true == answered else 0
    return tuple(
        ClassAccuracy(
            index, labels[index] if labels else str(index), images, right / images, ours / images
        )
        for index, (images, right, ours) in sorted(counts.items())
    )
