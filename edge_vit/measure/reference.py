"""Findings: what questions an evaluation before any gate does, the reference, labels or images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_vit.measure.records import LOOKS, RECORD, Clusters, Rows, find_clusters, unpack
from edge_vit.measure.results import Evidence, Finding
from edge_vit.measure.statistics import exact_bounds
from edge_vit.printable import one_line
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import task_named

MIN_IMAGES = 10  # different pictures below which nothing is judged, whatever the limits
MIN_KAPPA = 0.2
"""Share of the way from chance to perfect that a reference has to be surely above. Cohen's kappa up
to it is "slight" (Landis and Koch 1977, Biometrics 33, 159), and what random weights reach."""
MAX_OVERCONFIDENCE = 0.5
"""By how much a mean score may exceed the accuracy; a network that fits its data is far below."""
MAX_CONFLICTING = 0.05  # share of the different pictures that may come with several labels

_CONSTANT = 1e-5  # share of an output's length below which a difference is rounding

Confusion = Mapping[tuple[int, int], int]  # (true class, predicted class) -> images


@dataclass(frozen=True)
class ReferenceFacts:
    """What is known of a model and its data beside the records of the images."""

    reference: str  # precision and backend
    task: TaskName
    activation: Activation
    num_outputs: int  # classes, labels, scores or channels
    labels: tuple[str, ...] = ()  # class names of the model
    data_labels: tuple[str, ...] = ()  # class names of the data
    mean_score: float | None = None  # of the first predictions on labelled images
    accuracy: float | None = None  # on the same images

    @property
    def name(self) -> str:
        """The reference's precision alone, such as ``fp32``."""
        return self.reference.partition(" ")[0]

    def label(self, index: int) -> str:
        """Return the name of a class, its index where it has none."""
        return one_line(self.labels[index]) if index < len(self.labels) else str(index)


def _note(name: str, sentence: str) -> Finding:
    return Finding(name, "note", sentence)


def _doubt(name: str, sentence: str) -> Finding:
    return Finding(name, "undecided", sentence)


def question_reference(
    records: str, evidence: Evidence, facts: ReferenceFacts
) -> tuple[Finding, ...]:
    """Return what questions an evaluation, by the packed `records`; the gravest come first."""
    rows, clusters = unpack(records, RECORD), find_clusters(records)
    leaders = clusters.leaders[~clusters.is_calibrated_on]
    labels = clusters.labels[~clusters.is_calibrated_on]
    known, answers = labels >= 0, rows["answer"][leaders]
    is_constant = _is_constant(rows, clusters)
    found = [*_about_images(evidence), *_about_outputs(rows, evidence, facts, is_constant)]
    if task_named(facts.task).has_classes and facts.num_outputs > 1:
        confusion = Counter(zip(labels[known].tolist(), answers[known].tolist(), strict=True))
        found += _about_labels(evidence, facts, has_labels=bool(confusion))
        if confusion:
            found += _about_classes(evidence, facts, confusion)
            found += _about_scores(facts)
        if not is_constant and len(set(answers.tolist())) == 1 and len(answers) >= MIN_IMAGES:
            sentence = (
                f"{facts.name} gives the same class for all {evidence.num_images:,} different "
                "images, so any model that always gives it agrees. Add images of other classes."
            )
            found.append(_doubt("one-answer", sentence))
    return tuple(sorted(found, key=lambda finding: finding.outcome == "note"))


def _about_images(evidence: Evidence) -> Iterator[Finding]:
    copies = evidence.num_exact_copies + evidence.num_near_copies
    if evidence.num_calibrated_on:
        most = 2 * evidence.num_calibrated_on > evidence.num_distinct
        yield Finding(
            "calibrated-on",
            "undecided" if most else "note",
            f"{evidence.num_calibrated_on:,} of {evidence.num_distinct:,} different images were "
            "also calibrated on, as they are or encoded anew, which flatters INT8. They do not "
            f"decide{'. Evaluate on other images' if most else ''}.",
        )
    if evidence.num_images < MIN_IMAGES:
        yield _doubt(
            "few-images",
            f"{evidence.num_images} different images that calibration has not seen decide nothing, "
            f"at least {MIN_IMAGES} are needed. Evaluate on more of them.",
        )
    if copies:
        distinct = evidence.num_distinct
        counts = "One image counts" if distinct == 1 else f"{distinct:,} different images count"
        yield _note(
            "copies",
            f"{copies:,} of {distinct + copies:,} images are copies of others "
            f"({evidence.num_exact_copies:,} exact, {evidence.num_near_copies:,} encoded anew or "
            f"resized). {counts}, for every interval too.",
        )


def _about_outputs(
    rows: Rows, evidence: Evidence, facts: ReferenceFacts, is_constant: bool
) -> Iterator[Finding]:
    if is_constant:
        yield _doubt(
            "constant-output",
            f"{facts.name} gives the same output for {evidence.num_distinct:,} different images: "
            "the output does not depend on the image. Check the weights and the preprocessing.",
        )
    has_classes = task_named(facts.task).has_classes
    if has_classes and facts.num_outputs == 1:
        yield _doubt(
            "one-output",
            "The model has one output, so its first class is always the same and any model agrees "
            "with it. Export it as what it is: a numeric score, or a label that is on or off.",
        )
    flags = int(np.bitwise_and.reduce(rows["looks"]))  # what every row looks like
    if flags and has_classes and facts.activation == "softmax":
        yield _doubt(
            "activated-twice",
            f"The outputs are {LOOKS[flags]} already, and a softmax is applied to them once more: "
            "scores, divergence and calibration error mean nothing. Export the model again.",
        )


def _about_labels(
    evidence: Evidence, facts: ReferenceFacts, *, has_labels: bool
) -> Iterator[Finding]:
    if evidence.num_conflicting:
        share = evidence.num_conflicting / evidence.num_distinct
        yield Finding(
            "labels-conflict",
            "undecided" if share > MAX_CONFLICTING else "note",
            f"{evidence.num_conflicting:,} of {evidence.num_distinct:,} different images come with "
            "more than one label, and count as unlabelled. Check the labels.",
        )
    ours, theirs = facts.labels, facts.data_labels
    if theirs and ours and [n.casefold() for n in theirs] != [n.casefold() for n in ours]:
        wrong = [
            f"{their!r} for {our!r}"
            for our, their in zip(ours, theirs, strict=False)
            if our.casefold() != their.casefold()
        ] or [f"{len(theirs)} for {len(ours)} classes"]
        yield _doubt(
            "label-names",
            f"The class names of the data are not the model's: {', '.join(wrong[:3])}. Name the "
            "class folders after the model's labels.",
        )
    if not has_labels and facts.accuracy is None:
        yield _note(
            "no-labels",
            f"There are no labels: whether {facts.name} itself is right is not known, only whether "
            "predictions stay the same.",
        )


def _about_classes(
    evidence: Evidence, facts: ReferenceFacts, confusion: Confusion
) -> Iterator[Finding]:
    sizes = _sizes_of(confusion)
    cycle = permuted_classes(confusion)
    if cycle:
        shown = ", ".join(f"{facts.label(a)} as {facts.label(b)}" for a, b in cycle[:3])
        yield _doubt(
            "permuted-labels",
            f"{facts.name} takes most images of {len(cycle)} classes for one another ({shown}): "
            "the labels are permuted. Check which class each folder or number stands for.",
        )
    # Of one class alone, any other measure of chance is the accuracy itself.
    chance = max(chance_share(confusion) if len(sizes) > 1 else 0.0, 1 / facts.num_outputs)
    count, right = evidence.num_labelled, evidence.num_reference_right
    if not is_better_than_chance(right, count, chance):
        guessing = max(chance, max(sizes.values()) / count if len(sizes) > 1 else 0.0)
        yield _doubt(
            "chance",
            f"{facts.name} is right on {100 * right / count:.1f} % of {count:,} labelled images, "
            f"which is not clearly more than by guessing ({100 * guessing:.1f} %). Check the "
            "labels, the weights and the preprocessing.",
        )
    if len(sizes) == 1:
        yield _doubt(
            "one-class",
            f"Every labelled image is of class {facts.label(next(iter(sizes)))}: such labels "
            "cannot tell a good model from one that always gives that class. Add other classes.",
        )
    elif len(sizes) < facts.num_outputs:
        yield _note(
            "few-classes",
            f"The labels cover {len(sizes):,} of {facts.num_outputs:,} classes; nothing is known "
            "of the others.",
        )


def _about_scores(facts: ReferenceFacts) -> Iterator[Finding]:
    if facts.mean_score is None or facts.accuracy is None:
        return
    if facts.mean_score - facts.accuracy > MAX_OVERCONFIDENCE:
        yield _doubt(
            "overconfident",
            f"{facts.name} gives its first classes a mean score of {100 * facts.mean_score:.1f} % "
            f"and is right on {100 * facts.accuracy:.1f} % of the labelled images. Check the "
            "labels and the preprocessing.",
        )


def chance_share(confusion: Confusion) -> float:
    """Return the accuracy that the same predictions would have if dealt out at random, 0 to 1.

    It is the chance agreement of Cohen 1960 (Educational and Psychological Measurement 20, 37).
    """
    true, predicted = _sizes_of(confusion), Counter[int]()
    for (_, answer), count in confusion.items():
        predicted[answer] += count
    return sum(true[label] * predicted[label] for label in true) / true.total() ** 2


def is_better_than_chance(right: int, count: int, chance: float) -> bool:
    """Return whether a reference is better than chance with 95 % confidence, by enough to matter.

    The lower bound of its accuracy has to lie above that of the same predictions dealt out at
    random, by `MIN_KAPPA` of the way to 1: of all sums of independent trials with one mean, the
    binomial has the heaviest tail (Hoeffding 1956, Annals of Mathematical Statistics 27, 713).
    """
    return exact_bounds(right, count).low > chance + MIN_KAPPA * (1 - chance)


def permuted_classes(confusion: Confusion) -> tuple[tuple[int, int], ...]:
    """Return the classes that are predicted as one another in a cycle: (class, predicted as).

    A class counts where the reference gives one other class on most of its images, with 95 %
    confidence, which takes five of them. Classes that are merely hard are confused in one
    direction, or on fewer than half of their images.
    """
    sizes = _sizes_of(confusion)
    taken_for = {
        true: answer
        for (true, answer), count in confusion.items()
        if true != answer
        and 2 * count > sizes[true]  # few pairs are left to bisect a bound of
        and exact_bounds(count, sizes[true]).low > 0.5
    }
    found: set[int] = set()
    for start in taken_for:
        path, here = [start], taken_for[start]
        while here in taken_for and here not in path:
            path.append(here)
            here = taken_for[here]
        if here == start:
            found |= set(path)
    return tuple((true, taken_for[true]) for true in sorted(found))


def _sizes_of(confusion: Confusion) -> Counter[int]:
    sizes = Counter[int]()
    for (true, _), count in confusion.items():
        sizes[true] += count
    return sizes


def _is_constant(rows: Rows, clusters: Clusters) -> bool:
    """Whether the reference's outputs are the same for all different pictures, two at least."""
    projection = rows["projection"][clusters.leaders].astype(np.float64)
    if len(projection) < 2:
        return False
    return bool(np.ptp(projection) <= _CONSTANT * rows["norm"][clusters.leaders].max())
