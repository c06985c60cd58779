"""One or several numeric scores."""

from __future__ import annotations

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Order, Outputs, Size, Task, Wording
from edge_vit.tasks.measures import Measure, divergence
from edge_vit.tasks.numerics import BoolArray, Float64Array, relative_rms
from edge_vit.tasks.prediction import Prediction, Score, ScoresPrediction


class Regression(Task):
    """Numbers, of which each lies above or below a threshold."""

    name = "regression"
    gives = "scores"
    wording = Wording(
        subject="The side of the threshold",
        agreement=(
            "Same answer: every score is on the same side of the model's threshold. The error is "
            "the mean absolute difference over the standard deviation of the reference's values."
        ),
        divergence="off by {}",
        loss="the scores' spread, by error,",
    )
    columns = ("score", "value")
    aliases = ("regression",)
    has_threshold = True
    smoothing = ("ema",)
    gate = "max-error"
    measures = (Measure("error", "mean error", compare=divergence, has_row=False),)
    has_direction = False  # one score has none, and that of several means little

    def above(self, spec: ModelSpec, outputs: Outputs) -> BoolArray:
        """Return which scores reach the threshold, (rows, scores)."""
        assert spec.threshold is not None
        return np.asarray(self.values(spec, outputs)) >= spec.threshold

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return every score, whatever `top` is."""
        return self.from_shares(spec, self.scores(spec, outputs), None, image, top)

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether every score is on the same side of the threshold, whatever its size."""
        same: BoolArray = (self.above(spec, reference) == self.above(spec, candidate)).all(axis=1)
        return same

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return the mean absolute difference of the scores."""
        first, other = (
            np.asarray(self.values(spec, each), np.float64) for each in (reference, candidate)
        )
        found: Float64Array = np.abs(first - other).mean(axis=1)
        return found

    def deviation(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> float:
        """Return the error over the spread of each score over images: scores share nothing."""
        return relative_rms(
            self.values(spec, reference), self.values(spec, candidate), over_images=True
        )

    def scores(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return the scores."""
        return np.asarray(self.values(spec, outputs), np.float64)

    averageable = scores

    def from_shares(
        self, spec: ModelSpec, shares: Float64Array, order: Order, image: str, top: int
    ) -> Prediction:
        """Return the prediction of the scores `shares`, (scores,)."""
        scores = tuple(Score(i, spec.label(i), float(value)) for i, value in enumerate(shares))
        assert spec.threshold is not None
        return ScoresPrediction(image, scores, tuple((shares >= spec.threshold).tolist()))


TASK = Regression()
