"""What an accuracy report is made of: images, classes, labels and scores, one value each."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vit.tasks.prediction import Answer, Score


@dataclass(frozen=True)
class Disagreement:
    """An image where the two answers differ most.

    Attributes:
        image: its name in the data.
        thumbnail_png: the image as the model saw it, at most 128 pixels a side, PNG in base64.
        label: the true class name, or None where the data has no labels.
        reference: best classes or labels of the reference, best first.
        candidate: the same of the candidate.
        divergence: of the two outputs: see `Task.divergence`.
        agrees: whether the prediction is the same all the same.
        reference_scores: of a regression model, the reference's; at most 3.
        candidate_scores: likewise the candidate's.
    """

    image: str
    thumbnail_png: str
    label: str | None
    reference: tuple[Answer, ...]
    candidate: tuple[Answer, ...]
    divergence: float
    agrees: bool
    reference_scores: tuple[Score, ...] = ()
    candidate_scores: tuple[Score, ...] = ()


@dataclass(frozen=True)
class ClassAccuracy:
    """One class of the labelled images.

    Attributes:
        label: the class's name, or its index where it has none.
        count: images of this class.
        top1: share of them that the candidate gets right.
        reference_top1: share of them that the reference gets right.
    """

    index: int
    label: str
    count: int
    top1: float
    reference_top1: float


@dataclass(frozen=True)
class LabelAgreement:
    """One label of a multi-label model.

    Attributes:
        index: of the label.
        label: its name, or its index where it has none.
        reference_on: images where the reference has it on.
        candidate_on: images where the candidate has it on.
        agreement: share of the images where both have it on, or both off.
    """

    index: int
    label: str
    reference_on: int
    candidate_on: int
    agreement: float


@dataclass(frozen=True)
class ScoreError:
    """One numeric score of a regression model, candidate against reference.

    Attributes:
        index: of the score.
        label: its name, or its index where it has none.
        mean_error: mean absolute difference, in the score's own unit.
        error_deviation: standard deviation of the absolute difference over images.
        spread: standard deviation of the reference's values over images.
        above: images where the reference's value reaches the model's threshold.
        same_side: share of the images where both values are on the same side of it.
    """

    index: int
    label: str
    mean_error: float
    error_deviation: float
    spread: float
    above: int
    same_side: float
