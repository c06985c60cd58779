"""The steps of a sampler in numpy: DDIM without noise in between, and Euler's for flows.

They are those of diffusers' `DDIMScheduler` (Song, Meng and Ermon 2021, eta 0) and
`FlowMatchEulerDiscreteScheduler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec.sampling import SamplingSpec
from edge_vit.tasks.numerics import Float64Array, FloatArray

_MAX_BETA = 0.999


@dataclass(frozen=True)
class Step:
    """One step of a sampler: the timestep that the model is given, and where it leads."""

    timestep: float
    signal: float  # share of the signal's energy before the step; of a flow the noise level
    next_signal: float  # after it


def steps_of(spec: SamplingSpec, start: float | None = None) -> tuple[Step, ...]:
    """Return the steps of a whole loop, or of the rest of it from the timestep `start` on."""
    steps = _flow_steps(spec) if spec.prediction == "flow" else _ddim_steps(spec)
    if start is None or start >= steps[0].timestep:
        return steps
    rest = tuple(step for step in steps if step.timestep <= start)
    if rest and rest[0].timestep == start:
        return rest
    level = start / spec.num_train_timesteps
    if spec.prediction != "flow":
        level = float(signal_shares(spec)[int(start)])
    end = 0.0 if spec.prediction == "flow" else steps[-1].next_signal
    return (Step(start, level, rest[0].signal if rest else end), *rest)


def take_step(
    spec: SamplingSpec, step: Step, latents: FloatArray, predicted: FloatArray
) -> FloatArray:
    """Return the latents after `step`, float32, of what the model `predicted` for them."""
    x, output = np.asarray(latents, np.float64), np.asarray(predicted, np.float64)
    if spec.prediction == "flow":
        return (x + (step.next_signal - step.signal) * output).astype(np.float32)
    signal, noise = math.sqrt(step.signal), math.sqrt(1 - step.signal)
    if spec.prediction == "epsilon":
        clean, direction = (x - noise * output) / signal, output
    elif spec.prediction == "sample":
        clean, direction = output, (x - signal * output) / noise
    else:
        clean, direction = signal * x - noise * output, signal * output + noise * x
    if spec.clip:
        clean = np.clip(clean, -spec.clip, spec.clip)
    ahead = math.sqrt(step.next_signal) * clean + math.sqrt(1 - step.next_signal) * direction
    return ahead.astype(np.float32)


def signal_shares(spec: SamplingSpec) -> Float64Array:
    """Return what is left of the signal's energy at each timestep, (timesteps,)."""
    count = spec.num_train_timesteps
    power = 0.5 if spec.beta_schedule == "scaled_linear" else 1.0
    betas = np.linspace(spec.beta_start**power, spec.beta_end**power, count) ** (1 / power)
    if spec.beta_schedule == "squaredcos_cap_v2":
        bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], _MAX_BETA)
    return np.cumprod(1.0 - betas, dtype=np.float64)


def _ddim_steps(spec: SamplingSpec) -> tuple[Step, ...]:
    shares, count = signal_shares(spec), spec.num_train_timesteps
    if spec.spacing == "leading":
        places = np.arange(spec.steps)[::-1] * (count // spec.steps) + spec.steps_offset
    elif spec.spacing == "trailing":
        places = np.round(np.arange(count, 0, -count / spec.steps)).astype(np.int64) - 1
    else:
        places = np.linspace(0, count - 1, spec.steps).round()[::-1].astype(np.int64)
    if places[0] >= count:
        raise SpecError(
            f"steps of sampling: got {spec.steps} with steps_offset {spec.steps_offset}, which "
            f"begins at timestep {places[0]}, expected at most {count - 1}. Take fewer --steps"
        )
    last = 1.0 if spec.ends_clean else float(shares[0])
    steps = []
    for place in places.tolist():
        ahead = place - count // spec.steps
        after = float(shares[ahead]) if ahead >= 0 else last
        steps.append(Step(place, float(shares[place]), after))
    return tuple(steps)


def _flow_steps(spec: SamplingSpec) -> tuple[Step, ...]:
    count = spec.num_train_timesteps
    top, bottom = (_shifted(np.array(level), spec.shift) for level in (1.0, 1 / count))
    levels = _shifted(np.linspace(top, bottom, spec.steps), spec.shift)
    pairs = zip(levels.tolist(), [*levels[1:].tolist(), 0.0], strict=True)
    return tuple(Step(level * count, level, ahead) for level, ahead in pairs)


def _shifted(levels: Float64Array, shift: float) -> Float64Array:
    return shift * levels / (1 + (shift - 1) * levels)
