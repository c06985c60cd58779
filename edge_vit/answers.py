"""What a model names in an image: a class or label with its probability, or a numeric score."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
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
