"""Whether INT8 gains by a rotation of the residual stream: both graphs are calibrated and tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from edge_vit.calibration.graph_run import GraphRun
from edge_vit.graph.exact import return_memory, size_of
from edge_vit.graph.large import Spill
from edge_vit.graph.sites import find_sites
from edge_vit.graph.stream import Refusal, Stream, find_stream
from edge_vit.lowering.fp16_ranges import choose_fp32_nodes
from edge_vit.lowering.rotation import rotate
from edge_vit.progress import SILENT, Progress
from edge_vit.spec.table import CalibrationTable

SEED = 0
"""Of the rotation that is tried."""

_LEAST_GAIN = 0.5
"""In dB, of the output where nothing is quantized but the stream's readers' inputs; less is chance.
Rounding their weights is left out: compensation takes most of it."""


@dataclass(frozen=True)
class HalfEffect:
    """What a rotation of the residual stream does to FP16."""

    largest: tuple[float, float]  # |x| in the stream, as the model has it and rotated
    float32_nodes: tuple[int, int]  # how many nodes FP16 would overflow, likewise

    def __str__(self) -> str:
        return (
            f"the residual stream reaches {self.largest[1]:.4g} where it reached "
            f"{self.largest[0]:.4g}, and FP16 has to keep {self.float32_nodes[1]} nodes in float32 "
            f"where it kept {self.float32_nodes[0]}"
        )


def compare_half(*graphs: tuple[onnx.ModelProto, Mapping[str, float]]) -> HalfEffect:
    """Return how large the stream's values are before and after a rotation.

    `graphs`: both, with the largest |x| of each value.
    """
    largest, nodes = list[float](), list[int]()
    for graph, amax in graphs:
        stream = find_stream(ir.from_proto(graph).graph)
        assert isinstance(stream, Stream)
        largest.append(max(amax.get(value.name or "", 0.0) for value in stream.values))
        nodes.append(len(choose_fp32_nodes(graph, amax)))
    return HalfEffect((largest[0], largest[1]), (nodes[0], nodes[1]))


def choose_rotation(plain: GraphRun, progress: Progress = SILENT) -> CalibrationTable:
    """Return the table of `plain`, or of the rotated graph where that leaves more of the output.

    What the readers of the stream get decides, smoothed, on the images held out, so that one graph
    alone is searched. Should the rotated one come to less in the end than smoothing alone does
    without, the other is searched too.
    """
    model = plain.model
    graph_ir = ir.from_proto(model).graph
    stream = find_stream(graph_ir)
    if isinstance(stream, Refusal):
        progress.note(f"the residual stream is not rotated: {stream}")
        return plain.settle()
    reads = {matmul.name for matmul, _ in stream.reads}
    readers = {s.name for s in find_sites(graph_ir) if s.linear.matmul.name in reads}
    spill = Spill(0)
    with progress.step("rotating the residual stream"):
        return_memory(size_of(model))
        graph = rotate(model, SEED, spill)
    rotated = plain.rotated(graph, readers)
    before, after = (run.activation_error(readers).sqnr for run in (plain, rotated))
    found = f"its INT8 readers leave {after:.1f} dB rotated, {before:.1f} dB as it is"
    if after < before + _LEAST_GAIN:
        progress.note(f"the residual stream is not rotated: {found}")
        return plain.settle()
    effect = compare_half((model, plain.amax), (graph, rotated.amax))
    progress.note(f"the residual stream is rotated: {found}. On a few images {effect}")
    table = rotated.settle()
    smoothed = plain.smoothed(10 ** (-_sqnr(table) / 10)).sqnr
    table = _beside(table, "not rotated, smoothing alone", smoothed)
    if _sqnr(table) < smoothed:
        other = plain.settle()
        if _sqnr(other) > _sqnr(table):
            progress.note("as it is the model comes to more in the end: it is not rotated")
            return _beside(other, "rotated", _sqnr(table))
    return replace(
        table,
        fp32_nodes=plain.fp32_nodes,
        rotated_fp32_nodes=rotated.fp32_nodes,
        rotation=SEED,
    )


def _sqnr(table: CalibrationTable) -> float:
    assert table.forecast is not None
    measured = table.forecast.measured
    return table.forecast.sqnr if measured is None else measured


def _beside(table: CalibrationTable, name: str, sqnr: float) -> CalibrationTable:
    """Return `table` with one more plan that its own was compared with."""
    assert table.forecast is not None
    others = {**table.forecast.others, name: round(sqnr, 2)}
    return replace(table, forecast=replace(table.forecast, others=others))
