"""The finished plan and simpler ones on images that shaped none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from layers import layer_of

from edge_vit.calibration.final_check import choose_plan
from edge_vit.calibration.layer import plan_minmax
from edge_vit.calibration.output_error import OutputError

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


def test_a_gain_over_images_counts_each_alike():
    signal = np.ones((4, 1))
    old, new = (np.array([[0.1], [0.1], [0.1], [worst]]) for worst in (10.0, 1.0))
    assert OutputError(new, signal).gain_over(OutputError(old, signal)) == pytest.approx(2.5)
