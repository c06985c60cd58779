"""Whether an INT8 graph still predicts as fp32 does, on images that it was not made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edge_vit.bundle import Golden
from edge_vit.bundle.record import GOLDEN_IMAGES, SAMPLE_PHOTOGRAPHS, HalfProof
from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.walk import Array
from edge_vit.lowering.fp16_ranges import HalfEmulator
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import sqnr_of
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.numerics import FloatArray

COLLAPSED_SQNR = 20.0
"""In dB. Sound INT8 is at 35 or more; at 20 one prediction in twenty is another one."""

MAX_LOST = 3.0
"""In dB: how much float16 around INT8 may lose before it is reported."""

MAX_BELOW = 6.0
"""In dB: how far below the forecast INT8 may come before it is reported. Models calibrated on 24
images or more come to within 2 on images like those."""

MAX_SPREAD = 6.0
"""In dB: how far the median image may lie above all together. Up to 4 is ordinary; above, a few
images lose nearly all that is lost, and a handful cannot say how much others lose."""

_HARMLESS = 35.0
"""In dB: where the worst image is above it, no spread matters."""

_PLENTY = 50.0
"""In dB: above it, what float16 loses moves no prediction, however good INT8 alone is."""

_FEWEST = 4  # images that a median says something of

_JUDGE = "Judge it on many of the deployment's: edgevit verify BUNDLE --data DIR"

Feeds = dict[str, Array]
"""Input arrays by name."""


@dataclass(frozen=True)
class Int8Proof:
    """How an INT8 graph compares with fp32 on some images, in dB of SQNR."""

    num_images: int
    sqnr: float  # of all outputs together; minus infinity where one is not finite
    by_image: tuple[float, ...] = ()
    images: str = GOLDEN_IMAGES  # which they are, in words
    deviations: tuple[float, ...] = ()  # `Task.deviations`; empty where one is not finite

    @property
    def is_collapsed(self) -> bool:
        """Whether too little is left of the model to call it the same."""
        return self.sqnr < COLLAPSED_SQNR

    def __str__(self) -> str:
        text = f"INT8: {self.sqnr:.1f} dB SQNR with fp32 on {self.num_images} {self.images}"
        if not self.is_collapsed:
            return text
        advice = (
            "FP16 is the precision for this model, or calibrate again: edgevit calibrate --recipe "
            "best, with the deployment's own images"
        )
        if self.images == SAMPLE_PHOTOGRAPHS:
            advice = (
                f"They are none of the deployment's, since the export was given no images. {_JUDGE}"
            )
        return f"{text}, too little to predict as fp32 does. {advice}"


def prove_int8(
    portable: onnx.ModelProto,
    spec: ModelSpec,
    golden: Golden,
    threads: int | None = None,
    images: str = GOLDEN_IMAGES,
) -> Int8Proof:
    """Return how close `portable`, what `write_qdq` returned, comes to the golden outputs.

    `images` says in words which the golden ones are.
    """
    session = open_exact_session(portable, threads)
    names = [output.name for output in spec.outputs]

    def run(feeds: Feeds) -> Outputs:
        return dict(zip(names, session.run(names, feeds), strict=True))

    return _prove(run, spec, golden, images)


def prove_int8_in_half(graph: onnx.ModelProto, spec: ModelSpec, golden: Golden) -> Int8Proof:
    """Return how close `graph`, INT8 in float16 for TensorRT, comes, each output rounded.

    Where a value overflows, the SQNR is minus infinity.
    """
    emulator = HalfEmulator(graph)

    def run(feeds: Feeds) -> Outputs:
        outputs, overflowed = emulator.run(feeds)
        return {n: np.full_like(o, np.nan) if overflowed else o for n, o in outputs.items()}

    return _prove(run, spec, golden)


def note_lost_in_half(proof: Int8Proof, in_half: Int8Proof, half: HalfProof) -> str:
    """Return where float16 around INT8 loses much that float32 around it keeps; empty elsewhere.

    Where FP16 without INT8 loses as much, no recipe helps.
    """
    of_half = sqnr_of(2 * (1 - half.cosine_min))  # of outputs of one length
    best = min(proof.sqnr, of_half)
    if in_half.is_collapsed == proof.is_collapsed and in_half.sqnr >= min(best - MAX_LOST, _PLENTY):
        return ""
    return (
        f"INT8 for TensorRT comes to {in_half.sqnr:.1f} dB only, its float16 emulated"
        f"{'' if np.isfinite(in_half.sqnr) else ': a value overflows'}. "
        "Run: edgevit calibrate --recipe symmetric"
    )


def note_below_forecast(proof: Int8Proof, forecast: float | None) -> str:
    """Return where INT8 is worse than its table forecasts, or may be on other images; else nothing.

    `forecast` is `CalibrationTable.sqnr`, in dB: for images like those calibrated on.
    """
    if forecast is None or proof.is_collapsed:  # a collapse tells more
        return ""
    if proof.images == SAMPLE_PHOTOGRAPHS:  # none of those calibrated on
        return ""
    median, worst = float(np.median(proof.by_image)), min(proof.by_image)
    is_uneven = median > proof.sqnr + MAX_SPREAD and worst < _HARMLESS
    if is_uneven and proof.num_images >= _FEWEST:
        return (
            f"INT8 loses most on a few images: of {proof.num_images} {proof.images} half come to "
            f"{median:.1f} dB, the worst to {worst:.1f} dB, and others may lose more "
            f"than the {forecast:.1f} dB forecast. The model turns on small differences there. "
            f"{_JUDGE}; FP16 loses less"
        )
    if proof.sqnr < forecast - MAX_BELOW:
        return (
            f"INT8 was forecast at {forecast:.1f} dB and comes to {proof.sqnr:.1f} dB on "
            f"{proof.num_images} {proof.images}: they are unlike those calibrated on, or layers "
            f"add up to more than each loses alone. {_JUDGE}; or calibrate with images like these"
        )
    return ""


def _prove(
    run: Callable[[Feeds], Outputs], spec: ModelSpec, golden: Golden, images: str = GOLDEN_IMAGES
) -> Int8Proof:
    task, exact = task_of(spec), golden.named(spec)
    noises, signals, outputs = [], [], []  # the first two (images, outputs)
    for index, image in enumerate(golden.images):
        one = {name: output[index : index + 1] for name, output in exact.items()}
        outputs.append(run(feed_image(spec, image)))
        wanted, got = task.aligned(spec, one, outputs[-1])
        noises.append([_energy(got[name] - wanted[name]) for name in one])
        signals.append([_energy(wanted[name]) for name in one])
    if not np.isfinite(noises).all():
        return Int8Proof(len(golden.images), -np.inf, images=images)
    by_image = tuple(map(_sqnr, noises, signals))
    sqnr = _sqnr(np.sum(noises, axis=0), np.sum(signals, axis=0))
    whole = {name: np.concatenate([each[name] for each in outputs]) for name in exact}
    deviations = task.deviations(spec, exact, whole)
    return Int8Proof(len(golden.images), sqnr, by_image, images, deviations)


def _energy(values: FloatArray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _sqnr(noise: Sequence[float], signal: Sequence[float]) -> float:
    """Return the SQNR in dB of the mean relative error of the outputs, zeros left out."""
    shares = [n / s for n, s in zip(noise, signal, strict=True) if s > 0]
    return sqnr_of(float(np.mean(shares))) if shares else 0.0
