"""Predictions for one image: one frozen class per task, with a common surface."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SCORE_DIGITS = 6
_SHOWN = 3  # labels or scores in a headline


@dataclass(frozen=True)
class ClassScore:
    """One class or label: index, name and probability, 0 to 1."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Score:
    """One numeric score of a regression model: index, label and value."""

    index: int
    label: str
    value: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image; each task has a class of its own."""

    image: str  # its path or its name in the source; array where it came as one

    @property
    def key(self) -> object:
        """The part that is compared between predictions, such as the first class; or None."""
        return None

    @property
    def confidence(self) -> float | None:
        """Probability of the best entry, 0 to 1; None where there is none."""
        return None

    @property
    def names(self) -> tuple[ClassScore, ...]:
        """Classes or labels with their probability, best first; empty where there are none."""
        return ()

    @property
    def numbers(self) -> tuple[Score, ...]:
        """Numeric scores in order; empty where there are none."""
        return ()

    @property
    def headline(self) -> str | None:
        """The prediction in a few words; None where no words say it."""
        return None

    @property
    def line(self) -> str:
        """The prediction as a line of a log has it."""
        return self.headline or ""

    def entries(self) -> list[dict[str, Any]]:
        """Return what was found, best first, as JSON: `index`, `label`, `score`, and more."""
        return []

    def at_least(self, share: float) -> Prediction:
        """Return the prediction without entries whose score is below `share`."""
        return self

    def extras(self) -> dict[str, Any]:
        """Return what the prediction holds beside its entries, as JSON."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as JSON: `image`, `predictions`, and what the task adds."""
        return {"image": self.image, "predictions": self.entries(), **self.extras()}

    def record(self) -> dict[str, Any]:
        """Return the prediction as a sink of a camera writes it: `answers`, and what is added."""
        return {"answers": [_rounded(entry) for entry in self.entries()], **self.extras()}

    def draw(self, picture: Any) -> Any:
        """Return `picture`, a Pillow image, with what the prediction shows in it; here as it is."""
        return picture

    def files(self) -> Mapping[str, bytes]:
        """Return files that hold what a picture only shows, by the end of their names."""
        return {}

    def cells(self) -> list[tuple[str, ...]]:
        """Return the rows that a table shows of it; their heads are the task's `columns`."""
        return []


@dataclass(frozen=True)
class ClassPrediction(Prediction):
    """Classes with their probability."""

    classes: tuple[ClassScore, ...]  # best first

    @property
    def answers(self) -> tuple[ClassScore, ...]:
        """The classes, by the name that they had before 0.3."""
        warnings.warn("`answers` is called `classes`", DeprecationWarning, stacklevel=2)
        return self.classes

    @property
    def key(self) -> object:
        """Index of the first class."""
        return self.classes[0].index if self.classes else None

    @property
    def confidence(self) -> float | None:
        """Probability of the first class."""
        return self.classes[0].score if self.classes else None

    @property
    def names(self) -> tuple[ClassScore, ...]:
        """The classes."""
        return self.classes

    @property
    def headline(self) -> str | None:
        """The first class with its probability."""
        return ", ".join(_in_words(each) for each in self.classes[:1]) or None

    @property
    def line(self) -> str:
        """The first class with its probability to three digits."""
        return f"{self.classes[0].label} {self.classes[0].score:.3f}" if self.classes else ""

    def at_least(self, share: float) -> Prediction:
        """Return the classes whose probability is at least `share`."""
        kept = tuple(each for each in self.classes if each.score >= share)
        return dataclasses.replace(self, classes=kept)

    def entries(self) -> list[dict[str, Any]]:
        """Return the classes, best first."""
        return [vars(each).copy() for each in self.classes]

    def cells(self) -> list[tuple[str, ...]]:
        """Return class, index and probability of each."""
        return [(each.label, str(each.index), f"{100 * each.score:.2f} %") for each in self.classes]


@dataclass(frozen=True)
class LabelsPrediction(ClassPrediction):
    """Labels that are on or off by themselves."""

    labels_on: tuple[ClassScore, ...]  # those that reach the model's threshold, best first

    @property
    def key(self) -> object:
        """Indices of the labels that are on."""
        return frozenset(each.index for each in self.labels_on)

    @property
    def headline(self) -> str | None:
        """The labels that are on, three at most."""
        return ", ".join(map(_in_words, self.labels_on[:_SHOWN])) or "no label"

    @property
    def line(self) -> str:
        """The labels that are on, three at most."""
        return self.headline or ""

    def extras(self) -> dict[str, Any]:
        """Return the labels that are on."""
        return {"labels_on": [vars(each).copy() for each in self.labels_on]}

    def record(self) -> dict[str, Any]:
        """Return the labels, and the names of those that are on."""
        return {**super().record(), "labels_on": [each.label for each in self.labels_on]}

    def cells(self) -> list[tuple[str, ...]]:
        """Return label, whether it is on, index and probability of each."""
        on = set(self.labels_on)
        return [
            (each.label, "on" if each in on else "", str(each.index), f"{100 * each.score:.2f} %")
            for each in self.classes
        ]


@dataclass(frozen=True)
class ScoresPrediction(Prediction):
    """Numeric scores."""

    scores: tuple[Score, ...]  # every score in order
    above: tuple[bool, ...]  # whether each reaches the model's threshold

    @property
    def key(self) -> object:
        """The side of the threshold of every score."""
        return self.above

    @property
    def numbers(self) -> tuple[Score, ...]:
        """The scores."""
        return self.scores

    @property
    def headline(self) -> str | None:
        """The first three scores."""
        return ", ".join(f"{_name(each)} {each.value:.4g}" for each in self.scores[:_SHOWN])

    def entries(self) -> list[dict[str, Any]]:
        """Return the scores in order."""
        return [
            {"index": each.index, "label": each.label, "score": each.value} for each in self.scores
        ]

    def extras(self) -> dict[str, Any]:
        """Return the scores with their `value`, as earlier versions wrote them."""
        return {"scores": [vars(each).copy() for each in self.scores]}

    def record(self) -> dict[str, Any]:
        """Return the scores; there are no classes."""
        return {"answers": [], **self.extras()}

    def cells(self) -> list[tuple[str, ...]]:
        """Return name and value of each."""
        return [(each.label, f"{each.value:.6g}") for each in self.scores]


@dataclass(frozen=True)
class FeaturesPrediction(Prediction):
    """A feature vector."""

    features: tuple[float, ...]

    @property
    def line(self) -> str:
        """The number of features."""
        return f"{len(self.features)} features"

    def extras(self) -> dict[str, Any]:
        """Return the vector."""
        return {"features": list(self.features)}

    def cells(self) -> list[tuple[str, ...]]:
        """Return how many features there are."""
        return [(f"{len(self.features)} features", "", "–")]


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "score": round(entry["score"], _SCORE_DIGITS)} if "score" in entry else entry


def _in_words(each: ClassScore) -> str:
    return f"{each.label}  {each.score:.0%}"


def _name(score: Score) -> str:
    return f"score {score.label}" if score.label == str(score.index) else score.label
