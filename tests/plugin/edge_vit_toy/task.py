"""A task whose output is one level of brightness, in words: dark or bright."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_vit.tasks.base import Task, Wording
from edge_vit.tasks.measures import Measure
from edge_vit.tasks.prediction import Prediction


@dataclass(frozen=True)
class Brightness(Prediction):
    """A level, and its word."""

    level: float

    @property
    def key(self) -> object:
        """The word."""
        return "bright" if self.level > 0 else "dark"

    def entries(self):
        """Return the level as the only entry."""
        return [{"index": 0, "label": self.key, "score": self.level}]

    def cells(self):
        """Return word and level."""
        return [(self.key, f"{self.level:.3f}")]


def _level_error(spec, reference, candidate):
    return TASK.divergence(spec, reference, candidate)


class BrightnessTask(Task):
    """One level."""

    name = "brightness"
    wording = Wording("The word", "Same answer: both dark or both bright.", "off by {}")
    columns = ("word", "level")
    has_labels = False
    has_direction = False
    measures = (Measure("level_error", "level off by", compare=_level_error),)

    def output_name(self, activation=None):
        """Return ``level``."""
        return "level"

    def predict(self, spec, outputs, image, size, top):
        """Return the level."""
        return Brightness(image, float(self.values(spec, outputs)[0]))

    def same(self, spec, reference, candidate):
        """Return whether the word is the same."""
        sides = (self.values(spec, each)[:, 0] > 0 for each in (reference, candidate))
        return np.equal(*sides)

    def divergence(self, spec, reference, candidate):
        """Return how far the levels are apart."""
        return np.abs(self.values(spec, reference) - self.values(spec, candidate))[:, 0]


TASK = BrightnessTask()
