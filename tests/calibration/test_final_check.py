"""The finished plan and simpler ones on images that shaped none."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
from layers import layer_of

from edge_vit.calibration.fallback import rank_fallback
from edge_vit.calibration.final_check import choose_plan
from edge_vit.calibration.judge import Judge
from edge_vit.calibration.layer import plan_minmax
from edge_vit.calibration.output_error import OutputError
from edge_vit.progress import SILENT
from edge_vit.spec.table import CalibrationTable, Recipe

NUM_IMAGES = 8
EXACT = [{"logits": np.ones(4, np.float32)} for _ in range(NUM_IMAGES)]


def run_plans(errors: dict[str, float | list[float]]) -> tuple[dict[str, int], tuple]:
    """Choose among plans by what each is off in the images; with how many images each was run."""
    whole = plan_minmax(layer_of(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)))
    plans = {
        name: {"block0/fc1": dataclasses.replace(whole, high=1.0 + index)}
        for index, name in enumerate(errors)
    }
    names, counts = {plan["block0/fc1"].high: name for name, plan in plans.items()}, {}

    def outputs(name):
        for image, error in zip(EXACT, np.broadcast_to(errors[name], NUM_IMAGES), strict=True):
            counts[name] = counts.get(name, 0) + 1
            yield {"logits": image["logits"] + np.float32(error)}

    def measure(plan, most):
        name = names[plan["block0/fc1"].high]
        return OutputError.until(EXACT, outputs(name), None, most)

    return counts, choose_plan(plans, measure)


def test_a_plan_that_cannot_win_is_not_run_to_its_end():
    counts, ranked = run_plans({"all steps": 0.1, "largest values": 0.3, "without bias": 0.12})
    assert ranked[0].name == "all steps"
    assert counts == {"all steps": NUM_IMAGES, "largest values": 1, "without bias": 6}
    errors = {contender.name: contender.error.mean for contender in ranked}
    assert errors["largest values"] == pytest.approx(0.09, rel=1e-3)


def test_a_simpler_plan_that_is_better_is_run_on_all_images_and_kept():
    counts, ranked = run_plans({"all steps": 0.1, "largest values": 0.09, "without bias": 0.098})
    assert ranked[0].name == "largest values"
    assert counts["largest values"] == NUM_IMAGES > counts["without bias"]


def test_one_that_is_better_by_chance_is_not():
    counts, ranked = run_plans({"all steps": 0.1, "largest values": 0.0999})
    assert ranked[0].name == "all steps"
    assert counts["largest values"] == NUM_IMAGES


@pytest.mark.parametrize(
    ("worst", "chosen"), [(0.28, "all steps"), (0.2, "without bias")], ids=["a little", "far"]
)
def test_one_image_that_gains_decides_where_it_gains_far_alone(worst, chosen):
    """The other seven lose, so that a little less of the error's energy is chance."""
    plans = {"all steps": [0.05] * 7 + [0.3], "without bias": [0.055] * 7 + [worst]}
    _, ranked = run_plans(plans)
    assert ranked[0].name == chosen


@pytest.mark.parametrize(
    "order", [("without range", "without bias"), ("without bias", "without range")]
)
def test_a_plan_that_is_not_taken_cuts_no_other_short(order):
    """That without range has less energy, but not on average; that without bias has both."""
    plans = {"without range": [0.055] * 7 + [0.27], "without bias": [0.049] * 7 + [0.285]}
    _, ranked = run_plans({"all steps": [0.05] * 7 + [0.3]} | {name: plans[name] for name in order})
    assert ranked[0].name == "without bias"


def test_an_output_that_is_zero_at_first_ends_no_run():
    exact = [{"a": np.ones(2), "b": np.full(2, float(index))} for index in range(2)]
    got = [{"a": np.ones(2) + 1e-3, "b": np.full(2, value)} for value in (0.9, 1.0)]
    error = OutputError.until(exact, iter(got), None, 0.1)
    assert error.mean > 0.1
    assert len(error.by_image) == 2


@pytest.mark.parametrize("worst", ["held out", "shaping"])
def test_layers_go_to_fp16_until_the_worse_half_has_enough(worst):
    recipe = Recipe("own", search_tokens=100, min_sqnr=32, max_fallback=1.0)
    judge = Judged(None, None, None, (), draft_of(recipe), {}, (), 1)
    curve = rank_fallback(dict.fromkeys("abcd", 2.5e-4), dict.fromkeys("abcd", 1), 1.0)
    halves = (1e-3, 1e-4) if worst == "held out" else (1e-4, 1e-3)
    Judged.found = {
        tuple("abcd"[:count]): tuple((1 - count / 4) * half + 1e-9 for half in halves)
        for count in range(5)
    }
    samples = judge._with_shaping((), judge.run(()), SILENT)
    chosen, samples = judge._fall_back({}, curve, (), samples, SILENT)
    assert 2 <= len(chosen) <= 4
    assert min(sample.sqnr for sample in samples) >= 32


def test_a_gain_over_images_counts_each_alike():
    signal = np.ones((4, 1))
    old, new = (np.array([[0.1], [0.1], [0.1], [worst]]) for worst in (10.0, 1.0))
    assert OutputError(new, signal).gain_over(OutputError(old, signal)) == pytest.approx(2.5)


def draft_of(recipe: Recipe) -> CalibrationTable:
    return CalibrationTable(recipe, "", {}, tuple(map(str, range(64))))


class Judged(Judge):
    """A judge of errors that are known: of the images held out, and of those that shaped."""

    found: ClassVar[dict[tuple[str, ...], tuple[float, float]]] = {}

    def table(self, plans, costly=()):
        return tuple(costly)

    def run(self, table, most=np.inf, *, rounds_weights=True):
        return self.error(self.found[table][0], 4)

    def _with_shaping(self, table, error, progress):
        return error, self.error(self.found[table][1], 8)

    @staticmethod
    def error(each, count):
        return OutputError(np.full((count, 1), each), np.ones((count, 1)))


@pytest.mark.parametrize(
    ("held", "shaping", "kept"),
    [
        pytest.param(1.02, 0.7, ("a", "b"), id="those held out were lucky"),
        pytest.param(0.7, 1.3, (), id="the others lose"),
        pytest.param(0.99, 0.99, (), id="too little"),
    ],
)
def test_layers_go_to_fp16_by_more_images_than_chose_the_plan(held, shaping, kept):
    recipe = Recipe("own", search_tokens=100, min_worth=0.2, max_fallback=0.1)
    judge = Judged(None, None, None, (), draft_of(recipe), {}, (), 1)
    curve = rank_fallback({"a": 4e-4, "b": 4e-4, "c": 2e-4}, {"a": 5, "b": 5, "c": 90}, 0.1)
    Judged.found = {(): (1e-3, 1e-3), ("a", "b"): (held * 1e-3, shaping * 1e-3)}
    Judged.found["a",] = Judged.found[()]
    chosen, samples = judge._keep_worthy({}, curve, Judged.error(1e-3, 4), SILENT)
    assert chosen == kept
    assert samples[1].mean == pytest.approx(Judged.found[kept][1])
