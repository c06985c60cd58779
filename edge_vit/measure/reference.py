"""The reference judged before any gate: does a comparison with it answer the user's question?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_vit.measure.findings import Evidence, Finding
from edge_vit.measure.statistics import exact_bounds
from edge_vit.printable import one_line
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import task_named

MIN_IMAGES = 10
"""Different pictures below which nothing is judged, whatever the limits."""
MIN_KAPPA = 0.2
"""Share of the way from chance to perfect that a reference has to be surely above. Cohen's kappa up
to it is "slight" (Landis and Koch 1977, Biometrics 33, 159), and what random weights reach."""
MAX_OVERCONFIDENCE = 0.5
"""By how much a mean score may exceed the accuracy; a network that fits its data is far below."""
MIN_NOISY_GAP, MAX_NOISY_AREA = 0.1, 0.65
"""Labels are noisy where the mean score exceeds the accuracy by more than the first, and a right
prediction is surer than a wrong one in surely fewer pairs than the second. Where labels are right,
networks reach 0.75 to 0.95; where they were drawn at random, 0.5."""
MAX_CONFLICTING = 0.05
"""Share of the different pictures that may come with several labels."""

Confusion = Mapping[tuple[int, int], int]
"""(true class, predicted class) -> images."""


@dataclass(frozen=True)
class ReferenceFacts:
    """What is known of a model and its data beside the records of the images.

    Attributes:
        reference: precision and backend, ``fp32 ort``.
        task: of the model.
        activation: what turns its outputs into probabilities.
        num_outputs: classes, labels, scores or channels.
        labels: the model's class names; empty where there are none.
        data_labels: the class names of the data; empty where there are none.
        mean_score: of the reference's first predictions on labelled images; None without labels.
        accuracy: of the reference on the same images.
    """

    reference: str
    task: TaskName
    activation: Activation
    num_outputs: int
    labels: tuple[str, ...] = ()
    data_labels: tuple[str, ...] = ()
    mean_score: float | None = None
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """The reference's precision alone, such as ``fp32``."""
        return self.reference.partition(" ")[0]


@dataclass(frozen=True)
class Sureness:
    """Whether the reference is surer of its right predictions than of its wrong ones.

    Attributes:
        area: share of the pairs of a right and a wrong prediction in which the right one is surer,
            ties counting half: the area under the ROC curve.
        num_right: right predictions, at least 1.
        num_wrong: wrong ones, at least 1.
    """

    area: float
    num_right: int
    num_wrong: int

    @property
    def high(self) -> float:
        """Upper 95 % bound of `area` (Hanley and McNeil 1982, Radiology 143, 29)."""
        area = min(max(self.area, 0.05), 0.95)
        pairs = (
            area * (1 - area)
            + (self.num_right - 1) * (area / (2 - area) - area**2)
            + (self.num_wrong - 1) * (2 * area**2 / (1 + area) - area**2)
        )
        return self.area + 1.645 * math.sqrt(pairs / (self.num_right * self.num_wrong))


def question(
    evidence: Evidence,
    facts: ReferenceFacts,
    *,
    confusion: Confusion,
    num_answers: int,
    is_constant: bool,
    looks_like: str = "",
    sureness: Sureness | None = None,
) -> tuple[Finding, ...]:
    """Return every finding about an evaluation, the gravest first.

    Args:
        evidence: counts of the images that decide.
        facts: of the model and its data.
        confusion: of the reference, over the labelled images that decide.
        num_answers: different first predictions of the reference on the images that decide.
        is_constant: whether the reference's outputs are the same for different pictures.
        looks_like: ``probabilities`` or ``log-probabilities`` where every output is one.
        sureness: of the reference, over the labelled images that decide.
    """
    found = [*_about_images(evidence), *_about_outputs(evidence, facts, is_constant, looks_like)]
    if task_named(facts.task).has_classes and facts.num_outputs > 1:
        found += _about_labels(evidence, facts, confusion, sureness)
        if not is_constant and num_answers == 1 and evidence.num_images >= MIN_IMAGES:
            found.append(_one_answer(evidence, facts))
    return tuple(sorted(found, key=lambda finding: finding.outcome == "note"))


def _about_images(evidence: Evidence) -> Iterator[Finding]:
    copies = evidence.num_exact_copies + evidence.num_near_copies
    total = evidence.num_distinct + copies
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
        yield Finding(
            "few-images",
            "undecided",
            f"{evidence.num_images} different images that calibration has not seen decide nothing, "
            f"at least {MIN_IMAGES} are needed. Evaluate on more of them.",
        )
    if copies:
        yield Finding(
            "copies",
            "note",
            f"{copies:,} of {total:,} images are copies of others ({evidence.num_exact_copies:,} "
            f"exact, {evidence.num_near_copies:,} encoded anew or resized). "
            f"{_counted(evidence.num_distinct)}, for every interval too.",
        )


def _counted(distinct: int) -> str:
    return "One image counts" if distinct == 1 else f"{distinct:,} different images count"


def _about_outputs(
    evidence: Evidence, facts: ReferenceFacts, is_constant: bool, looks_like: str
) -> Iterator[Finding]:
    if is_constant:
        yield Finding(
            "constant-output",
            "undecided",
            f"{facts.name} gives the same output for {evidence.num_distinct:,} different images: "
            "the output does not depend on the image. Check the weights and the preprocessing.",
        )
    has_classes = task_named(facts.task).has_classes
    if has_classes and facts.num_outputs == 1:
        yield Finding(
            "one-output",
            "undecided",
            "The model has one output, so its first class is always the same and any model agrees "
            "with it. Export it as what it is: a numeric score, or a label that is on or off.",
        )
    if looks_like and has_classes and facts.activation == "softmax":
        yield Finding(
            "activated-twice",
            "undecided",
            f"The outputs are {looks_like} already, and a softmax is applied to them once more: "
            "scores, divergence and calibration error mean nothing. Export the model again.",
        )


def _about_labels(
    evidence: Evidence, facts: ReferenceFacts, confusion: Confusion, sureness: Sureness | None
) -> Iterator[Finding]:
    if evidence.num_conflicting:
        share = evidence.num_conflicting / evidence.num_distinct
        yield Finding(
            "labels-conflict",
            "undecided" if share > MAX_CONFLICTING else "note",
            f"{evidence.num_conflicting:,} of {evidence.num_distinct:,} different images come with "
            "more than one label, and count as unlabelled. Check the labels.",
        )
    if facts.data_labels and facts.labels and not _is_same_names(facts.data_labels, facts.labels):
        wrong = [
            f"{theirs!r} for {ours!r}"
            for ours, theirs in zip(facts.labels, facts.data_labels, strict=False)
            if ours.casefold() != theirs.casefold()
        ] or [f"{len(facts.data_labels)} for {len(facts.labels)} classes"]
        yield Finding(
            "label-names",
            "undecided",
            f"The class names of the data are not the model's: {', '.join(wrong[:3])}. Name the "
            "class folders after the model's labels.",
        )
    if not confusion:
        if facts.accuracy is None:
            yield Finding(
                "no-labels",
                "note",
                f"There are no labels: whether {facts.name} itself is right is not known, only "
                "whether predictions stay the same.",
            )
        return
    yield from _about_classes(evidence, facts, confusion)
    yield from _about_scores(facts, sureness)


def _about_classes(
    evidence: Evidence, facts: ReferenceFacts, confusion: Confusion
) -> Iterator[Finding]:
    sizes = Counter[int]()
    for (true, _), count in confusion.items():
        sizes[true] += count
    cycle = permuted_classes(confusion)
    if cycle:
        shown = ", ".join(f"{_name(facts, a)} as {_name(facts, b)}" for a, b in cycle[:3])
        yield Finding(
            "permuted-labels",
            "undecided",
            f"{facts.name} takes most images of {len(cycle)} classes for one another ({shown}): "
            "the labels are permuted. Check which class each folder or number stands for.",
        )
    # Of one class alone, any other measure of chance is the accuracy itself.
    chance = max(chance_share(confusion) if len(sizes) > 1 else 0.0, 1 / facts.num_outputs)
    count, right = evidence.num_labelled, evidence.num_reference_right
    if not is_better_than_chance(right, count, chance):
        guessing = max(chance, max(sizes.values()) / count if len(sizes) > 1 else 0.0)
        yield Finding(
            "chance",
            "undecided",
            f"{facts.name} is right on {100 * right / count:.1f} % of {count:,} labelled images, "
            f"which is not clearly more than by guessing ({100 * guessing:.1f} %). Check the "
            "labels, the weights and the preprocessing.",
        )
    if len(sizes) == 1:
        yield Finding(
            "one-class",
            "undecided",
            f"Every labelled image is of class {_name(facts, next(iter(sizes)))}: such labels "
            "cannot tell a good model from one that always gives that class. Add other classes.",
        )
    elif len(sizes) < facts.num_outputs:
        yield Finding(
            "few-classes",
            "note",
            f"The labels cover {len(sizes):,} of {facts.num_outputs:,} classes; nothing is known "
            "of the others.",
        )


def _about_scores(facts: ReferenceFacts, sureness: Sureness | None) -> Iterator[Finding]:
    if facts.mean_score is None or facts.accuracy is None:
        return
    gap = facts.mean_score - facts.accuracy
    measured = (
        f"mean score of {100 * facts.mean_score:.1f} % and is right on "
        f"{100 * facts.accuracy:.1f} % of the labelled images"
    )
    if gap > MAX_OVERCONFIDENCE:
        yield Finding(
            "overconfident",
            "undecided",
            f"{facts.name} gives its first classes a {measured}. Check the labels and the "
            "preprocessing.",
        )
    elif gap > MIN_NOISY_GAP and sureness is not None and sureness.high < MAX_NOISY_AREA:
        yield Finding(
            "noisy-labels",
            "undecided",
            f"{facts.name} gives its first classes a {measured}, and is about as sure where it is "
            f"wrong as where it is right: many labels look wrong. Check the labels of the "
            f"{sureness.num_wrong:,} images where they differ from {facts.name}'s prediction.",
        )


def _one_answer(evidence: Evidence, facts: ReferenceFacts) -> Finding:
    return Finding(
        "one-answer",
        "undecided",
        f"{facts.name} gives the same class for all {evidence.num_images:,} different images, so "
        "any model that always gives it agrees. Add images of other classes.",
    )


def chance_share(confusion: Confusion) -> float:
    """Return the accuracy that the same predictions would have if dealt out at random, 0 to 1.

    It is the chance agreement of Cohen 1960 (Educational and Psychological Measurement 20, 37).
    """
    true, predicted = Counter[int](), Counter[int]()
    for (label, answer), count in confusion.items():
        true[label] += count
        predicted[answer] += count
    return sum(true[label] * predicted[label] for label in true) / true.total() ** 2


def is_better_than_chance(right: int, count: int, chance: float) -> bool:
    """Return whether a reference is better than chance with 95 % confidence, by enough to matter.

    The lower bound of its accuracy has to lie above that of the same predictions dealt out at
    random, by `MIN_KAPPA` of the way to 1: of all sums of independent trials with one mean, the
    binomial has the heaviest tail (Hoeffding 1956, Annals of Mathematical Statistics 27, 713), so
    its exact bound holds. Always guessing the largest class may be right more often: a model that
    finds rare classes at the price of false alarms is of use all the same.

    Args:
        right: images on which the reference is right.
        count: labelled images.
        chance: see `chance_share`.
    """
    needed = chance + MIN_KAPPA * (1 - chance)
    return exact_bounds(right, count).low > needed


def permuted_classes(confusion: Confusion) -> tuple[tuple[int, int], ...]:
    """Return the classes that are predicted as one another in a cycle: (class, predicted as).

    A class counts where the reference gives one other class on most of its images, with 95 %
    confidence, which takes five of them. Classes that are merely hard are confused in one
    direction, or on fewer than half of their images.
    """
    sizes = Counter[int]()
    for (true, _), count in confusion.items():
        sizes[true] += count
    taken_for = {
        true: answer
        for (true, answer), count in confusion.items()
        if true != answer and exact_bounds(count, sizes[true]).low > 0.5
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


def _is_same_names(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    return [name.casefold() for name in first] == [name.casefold() for name in second]


def _name(facts: ReferenceFacts, index: int) -> str:
    return one_line(facts.labels[index]) if index < len(facts.labels) else str(index)
