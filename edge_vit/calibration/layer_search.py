"""Finds a plan for one layer: what its own rows propose, and the model's output accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_vit.calibration.layer import COMPENSATED, Plan, keep_mean
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.output_error import OutputError
from edge_vit.calibration.probe import BlockProbe
from edge_vit.calibration.steps import (
    KEPT,
    Choice,
    make_plan,
    narrowest_useful,
    scale_range,
    smoothings,
)
from edge_vit.spec.table import Recipe, sqnr_of

MIN_GAIN = 0.97
"""Of the output's error: less is chance. Where the layer's own rows do not gain as much, the output
is not asked."""

MAX_NARROWED = 0.25
"""Share of the layer's error that a narrower range may leave. Units that cancel leave far less; on
DINOv2-S ranges that gained 1 to 4 dB on four images cost 0.3 dB, and the worst image 2 dB, on 128
others."""

MAX_PROPOSED = 0.5
"""Share of the error of the layer's own rows above which a narrower range is not worth a run of the
model, which has to gain twice as much."""

_MAX_ON_FEW = 0.75  # the same of every fourth row, above which all are not looked at

MAX_WITH_KEPT = 0.8
"""Share of the layer's error that channels in floating point may leave."""

LEAST_WITH_KEPT = 2e-6
"""What they have to take away of the output's error, over the energy of the output: where all
layers together come to 50 dB, no layer's channels are worth a product of their own."""

RANGES_BESIDE_KEPT = (1, 1.25, 1.5)
"""How many times what was seen the range of the other channels holds; the first that will do."""

MAX_WORSE = 1.02
"""How many times its error the worst image may come to by a change that gains on average."""


@dataclass(frozen=True)
class Result:
    """What was found for a layer."""

    plan: Plan
    error: float  # of the output, that the plan alone makes, over the output's energy
    simpler: Mapping[str, Plan]  # by what was left out


class Search:
    """One layer and what is asked about it.

    Args:
        judge: the layer with inputs of the images of `probe`.
    """

    def __init__(
        self, rows: LayerRows, judge: LayerRows, probe: BlockProbe, recipe: Recipe
    ) -> None:
        self._rows, self._judge, self._probe, self._recipe = rows, judge, probe, recipe
        self._layer = rows.layer

    def run(self) -> Result:
        """Return the plan that the output likes best, and simpler ones."""
        choice = Choice(self._recipe.fold_strength)
        best = self._make(choice)
        error = self._ask(best)
        for other in smoothings(self._layer, choice, self._recipe):
            plan = self._make(other)
            if self._judge.mean_square(plan) > MIN_GAIN * self._judge.mean_square(best):
                continue
            if is_better(new := self._ask(plan, MIN_GAIN * error.mean), error):
                choice, best, error = other, plan, new
        whole = best
        if self._layer.outliers and error.mean > LEAST_WITH_KEPT:
            choice, best, error = self._keep_outliers(choice, best, error)
        if best.levels is not None and not self._is_compensation_sound(best):
            best = keep_mean(self._layer, make_plan(self._layer, choice, self._recipe))
            error = self._ask(best)
        ranged = best
        if "range" in self._recipe.steps:
            ranged, error = self._search_range(best, error)
        simpler = {"without range": best, f"without {KEPT}": whole}
        return Result(ranged, error.mean, simpler)

    def _keep_outliers(
        self, choice: Choice, plan: Plan, error: OutputError
    ) -> tuple[Choice, Plan, OutputError]:
        """Return `plan` with channels in floating point, where they are worth it.

        Where images gain on average, but one loses by what leaves the short range of the others, a
        wider one is tried.
        """
        for ratio in RANGES_BESIDE_KEPT:
            other = replace(choice, keeps_outliers=True, ratio=ratio)
            new = self._ask(kept := self._make(other))
            if is_worth_keeping(new, error):
                return other, kept, new
            if new.gain_over(error) < sqnr_of(MAX_WITH_KEPT):
                break
        return choice, plan, error

    def nearest(self, plan: Plan) -> Plan:
        """Return `plan` with every weight rounded to the nearest level."""
        bare = replace(plan, levels=None, correction=np.zeros_like(plan.correction))
        bare = replace(bare, steps=tuple(s for s in plan.steps if s != COMPENSATED))
        return keep_mean(self._layer, bare)

    def _search_range(self, plan: Plan, error: OutputError) -> tuple[Plan, OutputError]:
        """Return a narrower range where the output likes it far better.

        It clips what these images do not show: it has to pay a great deal, in every image.
        """
        first, found, rows = error, (plan, error), self._rows
        few = LayerRows(self._layer, rows.rows[::4], rows.weights[::4])
        # Weights that make up for each other do so for inputs as seen, not as a range clips them.
        for base in (plan,) if plan.levels is None else (plan, self.nearest(plan)):
            rough = scale_range(base, narrowest_useful(few, base))
            if few.mean_square(rough) > _MAX_ON_FEW * few.mean_square(base):
                continue
            if (ratio := narrowest_useful(self._rows, base)) < 1:
                other = scale_range(base, ratio)
                if self._rows.mean_square(other) > MAX_PROPOSED * self._rows.mean_square(base):
                    continue
                new = self._ask(other, MAX_NARROWED * first.mean)
                if is_far_better(new, first) and new.mean < found[1].mean:
                    found = self._ranged(other, ratio, new, first), new
        return found

    @staticmethod
    def _ranged(plan: Plan, ratio: float, new: OutputError, old: OutputError) -> Plan:
        gain = sqnr_of(new.mean) - sqnr_of(old.mean)
        return plan.did(f"range {ratio:g} ({gain:+.1f} dB)")

    def _is_compensation_sound(self, plan: Plan) -> bool:
        """Whether it also pays on images that it was not made from."""
        return self._judge.weight_square(plan) < self._judge.weight_square(self.nearest(plan))

    def _make(self, choice: Choice) -> Plan:
        return make_plan(self._layer, choice, self._recipe, compensated=self._recipe.is_compensated)

    def _ask(self, plan: Plan, most: float = math.inf) -> OutputError:
        """Return what `plan` costs the output: see `OutputError.until` for `most`."""
        error = self._judge.output_error(plan)
        return self._probe.error_of(self._layer.name, error, most=most)


def is_far_better(new: OutputError, old: OutputError) -> bool:
    """Say whether `new` is a fraction of the error only, in no image more than it was."""
    images = zip(new.by_image, old.by_image, strict=True)
    return new.mean < MAX_NARROWED * old.mean and all(mine <= other for mine, other in images)


def is_worth_keeping(new: OutputError, old: OutputError) -> bool:
    """Say whether `new` is worth the products in floating point that take the error down to it."""
    most = min(MAX_WITH_KEPT * old.mean, old.mean - LEAST_WITH_KEPT)
    return new.mean < most and new.worst <= MAX_WORSE * old.worst


def is_better(new: OutputError, old: OutputError) -> bool:
    """Say whether `new` is less of an error by more than chance, and no image much worse."""
    return new.mean < MIN_GAIN * old.mean and new.worst <= MAX_WORSE * old.worst
