"""The sampling loop around a model that runs one step of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.spec.samples import Rows
from edge_vit.spec.sampling import SamplingSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.generation.schedule import steps_of, take_step
from edge_vit.tasks.numerics import FloatArray

LATENTS, TIMESTEPS, LABELS = "latents", "timesteps", "labels"
"""Inputs of a denoiser: what it sees, how noisy that is, and the class that is wanted."""

TOKENS = "tokens"  # input of a decoder whose latents are indices of a codebook

Run = Callable[[Rows], Outputs]  # samples, (count,), to the outputs of a model, a row for each


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one sample went through."""

    rows: Rows  # what the model was fed at each step, (steps,)
    predicted: FloatArray  # of each step, guidance included, (steps, channels, height, width)
    latents: FloatArray  # the end of it, (channels, height, width)


def sampling_of(spec: ModelSpec) -> SamplingSpec:
    """Return how `spec`, a denoiser, is sampled."""
    assert spec.sampling is not None, "the task checks it"
    return spec.sampling


def sample(spec: ModelSpec, run: Run, row: Rows) -> Trajectory:
    """Take one sample, (), from its timestep to the end of sampling."""
    sampling, latents, rows, predicted = sampling_of(spec), row[LATENTS], [], []
    for step in steps_of(sampling, float(row[TIMESTEPS])):
        fed = row.copy()
        fed[LATENTS], fed[TIMESTEPS] = latents, step.timestep
        (output,) = predict(spec, run, fed[None])
        latents = take_step(sampling, step, latents, output)
        rows.append(fed)
        predicted.append(output)
    return Trajectory(np.stack(rows), np.stack(predicted), latents)


def predict(spec: ModelSpec, run: Run, rows: Rows) -> FloatArray:
    """Return what a model predicts for `rows`, (count, channels, height, width), with guidance.

    Channels beyond those of the latents, such as a learnt variance, are left out.
    """
    sampling, name = sampling_of(spec), spec.outputs[0].name
    fed = np.concatenate([rows, unlabelled(sampling, rows)]) if sampling.is_guided else rows
    output = np.asarray(run(fed)[name], np.float32)[:, : rows[LATENTS].shape[1]]
    if not sampling.is_guided:
        return output
    wanted, without = output[: len(rows)], output[len(rows) :]
    guided: FloatArray = without + np.float32(sampling.guidance) * (wanted - without)
    return guided


def unlabelled(sampling: SamplingSpec, rows: Rows) -> Rows:
    """Return `rows` with the label that stands for none."""
    changed: Rows = rows.copy()
    changed[LABELS] = sampling.null_label
    return changed


def noise(spec: ModelSpec, seed: int, label: int | None = None) -> Rows:
    """Return where sampling begins for `seed`, one sample, ().

    The latents are standard normal, by numpy's default generator; token indices are uniform. The
    label is `seed` modulo the number of classes, where it is not given.
    """
    first, random = spec.inputs[0], np.random.default_rng(seed)
    shape = tuple(map(int, first.shape[1:]))
    fields = [(t.name, t.dtype, tuple(map(int, t.shape[1:]))) for t in spec.inputs]
    row = np.zeros((), np.dtype(fields))
    if first.below:
        row[first.name] = random.integers(first.below, size=shape)
    else:
        row[first.name] = random.standard_normal(shape, np.float32)
    if spec.sampling is None:
        return row
    row[TIMESTEPS] = steps_of(spec.sampling)[0].timestep
    count = spec.sampling.num_labels
    if label is not None and not 0 <= label < count:
        wanted = f"0 to {count - 1}" if count else "none, the model takes no labels"
        raise SpecError(f"label: got {label}, expected {wanted}")
    if LABELS in (row.dtype.names or ()):
        row[LABELS] = seed % max(count, 1) if label is None else label
    return row
