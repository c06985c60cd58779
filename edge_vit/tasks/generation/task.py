"""The tasks: a denoiser inside its sampling loop, and a decoder of latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.spec.samples import Rows, as_picture
from edge_vit.tasks.base import Outputs, Run, Size, Task, Wording
from edge_vit.tasks.generation.loop import (
    LABELS,
    LATENTS,
    TIMESTEPS,
    TOKENS,
    noise,
    predict,
    sample,
    sampling_of,
    unlabelled,
)
from edge_vit.tasks.measures import Measure, MeasureValue
from edge_vit.tasks.numerics import BoolArray, Float64Array, FloatArray, relative_energy
from edge_vit.tasks.prediction import Prediction

MAX_LOST = 0.05
"""Largest share of a sample's energy in which it may differ and still count as the same."""
_GAP = 4  # pixels between two pictures
_SAMPLES = (
    "Left what fp32 makes of the seed, right what this precision makes of it; the pictures that "
    "differ most come first."
)


SAMPLE, STEPS = "sample", "steps"
"""Outputs of an evaluation: what sampling ends in, (rows, channels, height, width), and what was
predicted on the way at the reference's latents, (rows, steps, channels, height, width)."""

SPAN = 2.0  # from black to white: what PSNR is over
MAX_DB = 100.0  # what equal values count as


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


@dataclass(frozen=True, eq=False)
class SamplePrediction(Prediction):
    """What was generated: float32 (channels, height, width), of images from -1 to 1."""

    values: FloatArray

    @property
    def headline(self) -> str:
        """Shape and range."""
        shape = " × ".join(map(str, self.values.shape))
        return f"{shape}, {self.values.min():.3g} to {self.values.max():.3g}"

    def extras(self) -> dict[str, Any]:
        """Return shape and range."""
        return {
            "shape": list(self.values.shape),
            "min": float(self.values.min()),
            "max": float(self.values.max()),
        }

    def draw(self, picture: Any) -> Any:
        """Return the sample as a Pillow image, in its own pixels; `picture` does not matter."""
        from PIL import Image

        return Image.fromarray(as_picture(self.values))

    def cells(self) -> list[tuple[str, ...]]:
        """Return shape and range."""
        shape = " × ".join(map(str, self.values.shape))
        return [(shape, f"{self.values.min():.4g}", f"{self.values.max():.4g}")]


class Generation(Task):
    """What a denoiser and a decoder share: latents in, an image out."""

    columns = ("shape", "smallest", "largest")
    num_word_columns = 2
    takes_images = False
    has_labels = False
    is_drawn = True
    disagreement_is_loss = True
    default_top = 1
    measures: tuple[Measure, ...] = MEASURES
    loss_measure = LOSS.name

    def width_of(self, shape: tuple[int | str, ...]) -> int | str:
        """Return the number of channels."""
        return shape[1]

    def values(self, spec: ModelSpec, outputs: Outputs) -> FloatArray:
        """Return what sampling ended in, or the model's own output, a row for each sample."""
        return sample_of(spec, outputs)

    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return what was generated, whatever `top` is."""
        return SamplePrediction(image, np.asarray(sample_of(spec, outputs), np.float32))

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return whether the error has at most `MAX_LOST` of the energy of the reference."""
        return self.divergence(spec, reference, candidate) <= MAX_LOST

    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return the energy of the error over that of the reference."""
        return lost_energy(spec, reference, candidate)

    def overlay(self, spec: ModelSpec, picture: Any, reference: Outputs, candidate: Outputs) -> Any:
        """Return both samples side by side, the reference's first, as high as `picture` each."""
        from PIL import Image

        side = max(picture.size)
        canvas = Image.new("RGB", (2 * side + _GAP, side), "white")
        for index, outputs in enumerate((reference, candidate)):
            shown = Image.fromarray(as_picture(sample_of(spec, outputs)[0]))
            shown = shown.resize((side, side), Image.Resampling.BICUBIC)
            canvas.paste(shown, (index * (side + _GAP), 0))
        return canvas

    def start(self, spec: ModelSpec, seed: int, label: int | None = None) -> Rows:
        """Return the noise that belongs to `seed`."""
        return noise(spec, seed, label)


class Denoising(Generation):
    """One step of diffusion: what of the latents is noise, or which way they move."""

    name = "denoising"
    gives = "predicted"  # `SamplingSpec.prediction` has what that is
    wording = Wording(
        subject="The sample",
        agreement=(
            f"Same answer: what sampling ends in differs from fp32's of the same seed by at most "
            f"{MAX_LOST:.0%} of its energy."
        ),
        divergence="{} of the sample's energy",
        loss="samples, by the energy of the error,",
        pictures=_SAMPLES,
    )
    measures = (*MEASURES, *STEP_MEASURES)

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model without latents and timesteps, or whose output is not like its latents."""
        super().check(spec)
        shapes = {tensor.name: tensor.shape for tensor in spec.inputs}
        latents, output = shapes.get(LATENTS, ()), spec.outputs[0].shape
        wanted = {LATENTS: 4, TIMESTEPS: 1, LABELS: 1}
        is_known = all(len(shape) == wanted.get(name) for name, shape in shapes.items())
        if not is_known or next(iter(shapes), "") != LATENTS or TIMESTEPS not in shapes:
            got = ", ".join(f"{tensor.name} {tensor}" for tensor in spec.inputs)
            raise SpecError(
                f"inputs of {spec.name}: got {got}, expected {LATENTS} float32 (batch, channels, "
                f"height, width), {TIMESTEPS} (batch), and {LABELS} int64 (batch) where it takes "
                "classes. Keep what else it is fed, such as the embedding of a prompt, in the "
                "model as a buffer; of several prompts labels choose one"
            )
        if (
            len(output) != 4
            or output[2:] != latents[2:]
            or output[1] not in (latents[1], 2 * int(latents[1]))
        ):
            raise SpecError(
                f"output of {spec.name}: got {spec.outputs[0]}, expected one like {LATENTS}, "
                f"{spec.inputs[0]}, or twice as many channels, where it learns the variance too"
            )
        if spec.sampling is None:
            raise SpecError(f"{spec.name} has no sampling: how noise is taken away step by step")

    def evaluate(
        self, spec: ModelSpec, run: Run, rows: Rows, path: Any = None
    ) -> tuple[Outputs, Any]:
        """Return what sampling from each of `rows` ends in, and what was predicted on the way.

        Predictions are compared at the latents of the reference's own `path`.
        """
        taken = [sample(spec, run, rows[index, ...]) for index in range(len(rows))]
        path = path or taken
        steps = [
            own.predicted if own is given else predict(spec, run, given.rows)
            for own, given in zip(taken, path, strict=True)
        ]
        return {SAMPLE: np.stack([each.latents for each in taken]), STEPS: np.stack(steps)}, path

    def inputs_of(self, spec: ModelSpec, run: Run, seed: int) -> tuple[tuple[str, ...], Rows]:
        """Return what the model is fed while `seed` is sampled, (steps,), with a name for each."""
        rows = sample(spec, run, noise(spec, seed)).rows
        names = tuple(f"seed {seed}, timestep {row[TIMESTEPS]:g}" for row in rows)
        if not sampling_of(spec).is_guided:
            return names, rows
        without = tuple(f"{name}, no label" for name in names)
        return names + without, np.concatenate([rows, unlabelled(sampling_of(spec), rows)])


class DecodingLatents(Generation):
    """Latents of an image tokenizer, or its indices, to the image."""

    name = "decoding"
    gives = "image"
    wording = Wording(
        subject="The image",
        agreement=(
            f"Same answer: the image differs from fp32's of the same latents by at most "
            f"{MAX_LOST:.0%} of its energy."
        ),
        divergence="{} of the image's energy",
        loss="images, by the energy of the error,",
        pictures=_SAMPLES,
    )

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model that does not turn latents or indices into one map of channels."""
        super().check(spec)
        first, ranks = spec.inputs[0], [len(each.shape) for each in (*spec.inputs, *spec.outputs)]
        is_known = first.name == LATENTS and ranks == [4, 4]
        if first.name == TOKENS and first.below and first.dtype in ("int32", "int64"):
            is_known = ranks in ([2, 4], [3, 4])
        if not is_known:
            got = ", ".join(f"{tensor.name} {tensor}" for tensor in (*spec.inputs, *spec.outputs))
            raise SpecError(
                f"{spec.name}: got {got}, expected {LATENTS} float32 (batch, channels, height, "
                f"width), or {TOKENS} int64 (batch, count) or (batch, height, width) with the size "
                "of the codebook in below=, and one output float32 (batch, channels, height, width)"
            )


DENOISING, DECODING = Denoising(), DecodingLatents()
