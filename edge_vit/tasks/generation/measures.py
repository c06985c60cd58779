"""Measures of generated samples against the reference's from the same latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.measures import Measure, MeasureValue
from edge_vit.tasks.numerics import Float64Array, FloatArray, relative_energy

SAMPLE, STEPS = "sample", "steps"
"""Outputs of an evaluation: what sampling ends in, (rows, channels, height, width), and what was
predicted on the way at the reference's latents, (rows, steps, channels, height, width)."""

SPAN = 2.0
"""From black to white: what PSNR is over."""
MAX_DB = 100.0
"""What equal values count as."""


def sample_of(spec: ModelSpec, outputs: Outputs) -> FloatArray:
    """Return what sampling ended in, or the model's own output, a row for each sample."""
    return outputs[SAMPLE if SAMPLE in outputs else spec.outputs[0].name]


def psnr(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the peak signal-to-noise ratio of each sample in dB, (rows,), at most `MAX_DB`."""
    wanted, found = (sample_of(spec, each) for each in (reference, candidate))
    squares = np.square(np.asarray(found, np.float64) - wanted)
    return _decibel(squares.reshape(len(squares), -1).mean(axis=1) / SPAN**2)


def lost_energy(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    """Return the energy of the error of each sample over that of the reference's, (rows,)."""
    return relative_energy(sample_of(spec, reference), sample_of(spec, candidate))


def step_errors(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> list[list[float]]:
    """Return the relative energy of the error at each step, a list for each row."""
    if STEPS not in reference:
        return [[] for _ in sample_of(spec, reference)]
    pairs = zip(reference[STEPS], candidate[STEPS], strict=True)
    return [relative_energy(wanted, found).tolist() for wanted, found in pairs]


def sum_steps(
    candidate: Sequence[list[float]], reference: Sequence[Any]
) -> Mapping[str, MeasureValue]:
    """Return SQNR over all steps, and that of the worst step over all samples, with its number.

    Steps are counted from 1. A sample that begins later has fewer of them: its last one is the last
    of all.
    """
    count = max(map(len, candidate), default=0)
    if not count:
        return dict.fromkeys(("step_sqnr", "worst_step_sqnr", "worst_step"), MeasureValue(None))
    by_step = [
        float(np.mean([errors[-place] for errors in candidate if len(errors) >= place]))
        for place in range(count, 0, -1)
    ]
    worst = int(np.argmax(by_step))
    every = [error for errors in candidate for error in errors]
    values = (float(_decibel(np.mean(every))), float(_decibel(by_step[worst])), float(worst + 1))
    names = ("step_sqnr", "worst_step_sqnr", "worst_step")
    return {name: MeasureValue(value) for name, value in zip(names, values, strict=True)}


def _decibel(shares: Any) -> Float64Array:
    """Return ratios of energies as dB, above 0 the smaller they are, at most `MAX_DB`."""
    least = 10 ** (-MAX_DB / 10)
    found: Float64Array = -10 * np.log10(np.maximum(shares, least))
    return found


LOSS = Measure("sample_error", "energy of the error of samples", lost_energy, unit="share")
PSNR = Measure("psnr", "PSNR of samples, dB", psnr)
MEASURES = (LOSS, PSNR)
STEP_MEASURES = (
    Measure("step_sqnr", "SQNR over all steps, dB", step_errors, summarize=sum_steps),
    Measure("worst_step_sqnr", "SQNR of the worst step, dB", summarize=sum_steps, of="step_sqnr"),
    Measure(
        "worst_step", "the worst step, from 1", unit="count", summarize=sum_steps, of="step_sqnr"
    ),
)
