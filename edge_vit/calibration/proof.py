"""Whether an INT8 graph still answers as fp32 does, on the images that every bundle carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from edge_vit.bundle import Golden
from edge_vit.calibration.fallback import sqnr_of
from edge_vit.calibration.half_ranges import emulate_half
from edge_vit.calibration.observer import open_exact_session
from edge_vit.graph.walk import Array
from edge_vit.spec import ModelSpec

COLLAPSED_SQNR = 20.0
"""In dB. Sound INT8 is at 35 or more; at 20 one answer in twenty is another one."""

MAX_LOST = 3.0
"""In dB: how much float16 around INT8 may lose before somebody is told."""

Feeds = dict[str, Array]
"""Input arrays by name."""


@dataclass(frozen=True)
class Int8Proof:
    """What the golden images say of an INT8 graph.

    Attributes:
        num_images: golden images.
        sqnr: of all outputs together against fp32, in dB; minus infinity where one is not finite.
    """

    num_images: int
    sqnr: float

    @property
    def is_collapsed(self) -> bool:
        """Whether too little is left of the model to call it the same."""
        return self.sqnr < COLLAPSED_SQNR

    def __str__(self) -> str:
        said = f"INT8: {self.sqnr:.1f} dB SQNR with fp32 on {self.num_images} golden images"
        if not self.is_collapsed:
            return said
        return (
            f"{said}, too little to answer as fp32 does. FP16 is the precision for this model, or "
            "calibrate again: edgevit calibrate --recipe best, with the deployment's own images"
        )


def prove_int8(portable: onnx.ModelProto, spec: ModelSpec, golden: Golden) -> Int8Proof:
    """Return how close `portable`, what `write_qdq` returned, comes to the golden outputs."""
    session = open_exact_session(portable, None)

    def run(feeds: Feeds) -> Array:
        output: Array = session.run([spec.outputs[0].name], feeds)[0]
        return output

    return _prove(run, spec, golden)


def prove_int8_in_half(graph: onnx.ModelProto, spec: ModelSpec, golden: Golden) -> Int8Proof:
    """Return how close `graph`, INT8 in float16 for TensorRT, comes, each output rounded.

    Where a value overflows, the SQNR is minus infinity.
    """

    def run(feeds: Feeds) -> Array:
        output, overflowed = emulate_half(graph, feeds)
        return np.full_like(output, np.nan) if overflowed else output

    return _prove(run, spec, golden)


def say_lost_in_half(proof: Int8Proof, in_half: Int8Proof) -> str:
    """Say where float16 around INT8 loses much that float32 around it keeps; empty elsewhere."""
    if in_half.is_collapsed == proof.is_collapsed and in_half.sqnr >= proof.sqnr - MAX_LOST:
        return ""
    return (
        f"INT8 for TensorRT comes to {in_half.sqnr:.1f} dB only, its float16 emulated"
        f"{'' if np.isfinite(in_half.sqnr) else ': a value overflows'}. "
        "Run: edgevit calibrate --recipe symmetric"
    )


def _prove(run: Callable[[Feeds], Array], spec: ModelSpec, golden: Golden) -> Int8Proof:
    noise = 0.0
    for image, exact in zip(golden.images, golden.outputs, strict=True):
        batch = np.broadcast_to(image, (spec.static_batch or 1, *image.shape))
        output = run({spec.inputs[0].name: np.ascontiguousarray(batch)})
        noise += float(np.square(output[0].astype(np.float64) - exact).sum())
    signal = float(np.square(golden.outputs, dtype=np.float64).sum())
    if not np.isfinite(noise):
        return Int8Proof(len(golden.images), -np.inf)
    return Int8Proof(len(golden.images), sqnr_of(noise / signal) if signal else 0.0)
