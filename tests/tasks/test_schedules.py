"""Samplers in numpy give what diffusers' schedulers give; see golden/make_schedules.py."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.spec import SamplingSpec
from edge_vit.tasks.generation.schedule import signal_shares, steps_of, take_step

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schedules.json").read_text())
LATENTS, WEIGHT = (np.array(GOLDEN[name], np.float32) for name in ("latents", "weight"))
BOUND = 1e-4
"""Of the largest latent: latents are float32 from step to step."""


def spec_of(case):
    config = case["config"]
    if case["scheduler"].startswith("Flow"):
        return SamplingSpec(prediction="flow", steps=case["steps"], shift=config["shift"])
    return SamplingSpec(
        prediction=config["prediction_type"],
        steps=case["steps"],
        beta_schedule=config["beta_schedule"],
        spacing=config["timestep_spacing"],
        steps_offset=config["steps_offset"],
        ends_clean=config["set_alpha_to_one"],
        clip=1.0 if config["clip_sample"] else 0.0,
    )


def test_every_case_is_that_of_diffusers():
    assert len(GOLDEN["cases"]) > 80
    for case in GOLDEN["cases"]:
        spec = spec_of(case)
        steps, latents = steps_of(spec), LATENTS
        assert [s.timestep for s in steps] == pytest.approx(case["timesteps"], abs=1e-3), case
        for step in steps:
            latents = take_step(spec, step, latents, np.tanh(latents @ WEIGHT))
        wanted = np.array(case["latents"]).reshape(LATENTS.shape)
        assert np.abs(latents - wanted).max() < BOUND * max(1, np.abs(wanted).max()), case


def test_the_rest_of_a_loop_begins_at_any_timestep():
    spec = SamplingSpec(steps=10)
    whole = steps_of(spec)
    assert steps_of(spec, whole[4].timestep) == whole[4:]
    first, *rest = steps_of(spec, 450)
    assert first.signal == signal_shares(spec)[450]
    assert first.next_signal == rest[0].signal
    assert rest == list(whole[5:])
    assert [s.timestep for s in steps_of(SamplingSpec(steps=4, prediction="flow"), 300)] == [300, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps of sampling: got 0, expected 1 to 1000"),
        ({"prediction": "score"}, "prediction: got 'score', expected one of"),
        ({"guidance": 2.0}, "guidance 2 needs labels and a null_label"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(SamplingSpec(), **change)


def test_steps_that_begin_before_the_first_timestep_are_refused():
    with pytest.raises(SpecError, match="begins at timestep 1000, expected at most 999"):
        steps_of(SamplingSpec(steps=1000, steps_offset=1))
