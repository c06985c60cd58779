"""What an evaluation can tell: which images count as evidence, and what questions the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingOutcome = Literal["note", "undecided", "fail"]
FindingName = Literal[
    "no-labels",
    "label-names",
    "labels-conflict",
    "one-class",
    "few-classes",
    "permuted-labels",
    "chance",
    "overconfident",
    "noisy-labels",
    "copies",
    "few-images",
    "calibrated-on",
    "constant-output",
    "one-answer",
    "one-output",
    "nothing-shown",
    "activated-twice",
    "shared-error",
    "second-look",
]
ABOUT_LABELS: frozenset[FindingName] = frozenset(
    {
        *("label-names", "labels-conflict", "one-class", "permuted-labels", "chance"),
        *("overconfident", "noisy-labels"),
    }
)
"""Findings after which no accuracy by these labels means anything, neither good nor bad."""


@dataclass(frozen=True)
class Finding:
    """Something about the question itself: the reference, the labels or the images.

    Attributes:
        name: which finding it is, one word for programs.
        outcome: the best verdict that it allows; ``note`` allows any.
        sentence: the same in plain words, with what to do.
    """

    name: FindingName
    outcome: FindingOutcome
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """Counts of the images that decide: each different picture once, none that calibrated.

    Attributes:
        num_distinct: different pictures; exact copies and near ones of equal label count once.
        num_exact_copies: images with the very pixels of another one.
        num_near_copies: images that show another one's picture, encoded anew or resized.
        num_conflicting: different pictures that come with more than one label; these are taken as
            unlabelled.
        num_calibrated_on: different pictures that calibration saw, as they are or encoded anew.
        num_images: different pictures that calibration did not see. These decide, and the counts
            below are of them.
        num_labelled: with a label.
        num_agreeing: with the same prediction as the reference.
        num_reference_right: labelled, and the reference is right.
        num_lost: labelled, and only the reference is right.
        num_gained: labelled, and only the candidate is right.
    """

    num_distinct: int
    num_exact_copies: int
    num_near_copies: int
    num_conflicting: int
    num_calibrated_on: int
    num_images: int
    num_labelled: int
    num_agreeing: int
    num_reference_right: int
    num_lost: int
    num_gained: int
