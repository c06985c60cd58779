"""Writes ``schedules.json``: what diffusers' schedulers make of a few latents.

    python tests/golden/make_schedules.py

It needs diffusers and torch. The model is ``tanh(latents @ weight)``; every number that it takes is
written too.
"""

import itertools
import json
from pathlib import Path

import diffusers
import numpy as np
import torch

SHAPE = (2, 3, 3)


def cases():
    """Yield name of the scheduler, its configuration, and the number of steps."""
    for prediction, schedule, spacing in itertools.product(
        ("epsilon", "v_prediction", "sample"),
        ("linear", "scaled_linear", "squaredcos_cap_v2"),
        ("leading", "trailing", "linspace"),
    ):
        for steps, clip in ((1, False), (7, True), (20, False)):
            yield (
                "DDIMScheduler",
                {
                    "prediction_type": prediction,
                    "beta_schedule": schedule,
                    "beta_start": 1e-4,
                    "beta_end": 0.02,
                    "timestep_spacing": spacing,
                    "steps_offset": int(spacing == "leading" and steps > 1),
                    "set_alpha_to_one": clip,
                    "clip_sample": clip,
                },
                steps,
            )
    for shift, steps in itertools.product((1.0, 3.0), (1, 7)):
        yield "FlowMatchEulerDiscreteScheduler", {"shift": shift}, steps


def main():
    """Write the file beside this script."""
    random = np.random.default_rng(0)
    latents = random.standard_normal(SHAPE).astype(np.float32)
    weight = (random.standard_normal((SHAPE[-1],) * 2) * 0.3).astype(np.float32)
    found = []
    for name, config, steps in cases():
        scheduler = getattr(diffusers, name)(**config)
        scheduler.set_timesteps(steps)
        x = torch.tensor(latents, dtype=torch.float64)
        for timestep in scheduler.timesteps:
            output = torch.tanh(x @ torch.tensor(weight, dtype=torch.float64))
            x = scheduler.step(output, timestep, x).prev_sample
        found.append(
            {
                "scheduler": name,
                "config": config,
                "steps": steps,
                "timesteps": scheduler.timesteps.tolist(),
                "latents": x.flatten().tolist(),
            }
        )
    made = {
        "made_by": f"diffusers {diffusers.__version__}",
        "latents": latents.tolist(),
        "weight": weight.tolist(),
        "cases": found,
    }
    Path(__file__).with_name("schedules.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
