"""Whether INT8 gains by a rotation of the residual stream: both graphs are calibrated and tried."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import preprocess
from edge_vit.graph.mapped import map_weights
from edge_vit.graph.stream import Refusal, Stream, find_stream
from edge_vit.graph.walk import Array
from edge_vit.lowering.fp16_ranges import choose_fp32_nodes, observe_amax
from edge_vit.lowering.rotation import rotate
from edge_vit.progress import SILENT, Advance, Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable

SEED = 0
"""Of the rotation that is tried."""

_MIN_GAIN = 0.1
"""In dB: by how much the rotated graph has to be better."""

_NUM_IMAGES = 4  # to find the largest values of the stream


@dataclass(frozen=True)
class HalfEffect:
    """What a rotation of the residual stream does to FP16.

    Attributes:
        largest: |x| in the stream, as the model has it and rotated.
        float32_nodes: how many nodes FP16 would overflow, likewise.
    """

    largest: tuple[float, float]
    float32_nodes: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"the residual stream reaches {self.largest[1]:.4g} where it reached "
            f"{self.largest[0]:.4g}, and FP16 has to keep {self.float32_nodes[1]} nodes in float32 "
            f"where it kept {self.float32_nodes[0]}"
        )


def measure_half(
    model: onnx.ModelProto,
    rotated: onnx.ModelProto,
    spec: ModelSpec,
    images: Sequence[Array],
    threads: int | None = None,
) -> HalfEffect:
    """Return how large the stream's values are before and after a rotation.

    Args:
        model: the fp32 graph in canonical form, whose stream can be rotated.
        rotated: what `rotate` made of it.
        spec: its facts.
        images: uint8 (height, width, 3) RGB, as preprocessed.
        threads: of ONNX Runtime; None for all cores.
    """
    largest, nodes = list[float](), list[int]()
    for graph in (model, rotated):
        stream = find_stream(ir.from_proto(graph).graph)
        assert isinstance(stream, Stream)
        amax = observe_amax(graph, spec, images, threads)
        largest.append(max(amax.get(value.name or "", 0.0) for value in stream.values))
        nodes.append(len(choose_fp32_nodes(graph, amax)))
    return HalfEffect((largest[0], largest[1]), (nodes[0], nodes[1]))


def try_rotation(
    model: onnx.ModelProto,
    spec: ModelSpec,
    images: ImageSource,
    table: CalibrationTable,
    calibrate: Callable[[onnx.ModelProto, Progress], CalibrationTable],
    threads: int | None = None,
    progress: Progress = SILENT,
) -> CalibrationTable:
    """Return `table`, or that of the rotated graph where it leaves more of the model's output.

    Args:
        model: the fp32 graph in canonical form.
        spec: its facts.
        images: that calibration reads.
        table: of `model`, with a forecast.
        calibrate: makes the table of a graph from the same images, the same ones held out.
        threads: of ONNX Runtime; None for all cores.
        progress: told what came out.
    """
    stream = find_stream(ir.from_proto(model).graph)
    if isinstance(stream, Refusal):
        progress.note(f"the residual stream is not rotated: {stream}")
        return table
    with progress.step("rotating the residual stream"):
        data = rotate(model, SEED).SerializeToString()
    with map_weights(data) as rotated:
        del data
        other = calibrate(rotated, _Prefixed(progress))
        assert table.forecast is not None
        assert other.forecast is not None
        before, after = table.forecast.sqnr, other.forecast.sqnr
        found = f"{after:.1f} dB with the residual stream rotated, {before:.1f} dB without"
        if not _is_better(other, table):
            progress.note(f"{found}: it is not rotated")
            others = {**table.forecast.others, "rotated": round(after, 2)}
            return replace(table, forecast=replace(table.forecast, others=others))
        few = itertools.islice(images, _NUM_IMAGES)
        some = [preprocess(image.pixels, spec.preprocess) for image in few]
        with progress.step(f"looking at the rotated stream on {len(some)} images"):
            effect = measure_half(model, rotated, spec, some, threads)
        progress.note(f"{found}: it is rotated. On {len(some)} images {effect}")
    others = {**other.forecast.others, "not rotated": round(before, 2)}
    return replace(
        other,
        fp32_nodes=table.fp32_nodes,
        rotated_fp32_nodes=other.fp32_nodes,
        rotation=SEED,
        forecast=replace(other.forecast, others=others),
    )


class _Prefixed:
    """Progress of the rotated graph: its steps and notes say so."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open the step."""
        return self._progress.step(f"rotated: {name}", total)

    def note(self, text: str) -> None:
        """Say the line."""
        self._progress.note(f"rotated: {text}")


def _is_better(rotated: CalibrationTable, plain: CalibrationTable) -> bool:
    """Say whether more of the output is left; of two that are good enough, with more in INT8."""
    assert rotated.forecast is not None
    assert plain.forecast is not None
    after, before = rotated.forecast.sqnr, plain.forecast.sqnr
    wanted = plain.recipe.min_sqnr
    if min(after, before) >= wanted and _count_half(rotated) != _count_half(plain):
        return _count_half(rotated) < _count_half(plain)
    return after >= before + _MIN_GAIN


def _count_half(table: CalibrationTable) -> int:
    return sum(not scales.is_quantized for scales in table.sites.values())
