"""The variants of each number format: written from the reference graph, and proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edge_vit.bundle import GOLDEN, RECORD, TABLE, WEIGHTS, Bundle, Change
from edge_vit.bundle.record import GOLDEN_IMAGES, SAMPLE_PHOTOGRAPHS, ExportRecord, GoldenProof
from edge_vit.formats import NumberFormat
from edge_vit.formats.fp16 import FORMAT as FP16
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.graph.exact import return_memory, size_of
from edge_vit.graph.large import Spill, files_of, read_graph
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import choose_fp32_nodes, observe_amax, prove_half
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.proof import (
    note_below_forecast,
    note_lost_in_half,
    prove_int8,
    prove_int8_in_half,
)
from edge_vit.lowering.qdq import write_qdq
from edge_vit.optional import installed_versions
from edge_vit.plugins import import_target
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import Precision
from edge_vit.spec.table import CalibrationTable


@dataclass(frozen=True)
class Request:
    """What the files of a format are written from."""

    bundle: Bundle  # holds the reference graph and the golden images
    table: CalibrationTable | None = None  # with its rounded weights
    proofs: Mapping[Precision, Any] = field(default_factory=dict)  # of the wider formats
    progress: Progress = SILENT
    spill: Spill = field(default_factory=Spill)  # for graphs over the limit

    def read_model(self) -> onnx.ModelProto:
        """Return the reference graph, read anew: it is the caller's to change or to free."""
        return read_graph(self.bundle)

    @property
    def parents(self) -> tuple[str, ...]:
        """The files of the bundle that a graph is made from."""
        return (self.bundle.graph(), TABLE if self.bundle.has(TABLE) else GOLDEN)


@dataclass(frozen=True)
class Lowered:
    """The files of one format."""

    files: Mapping[str, bytes | Path]  # by path inside the bundle
    parents: tuple[str, ...]  # names of the files that they were made from
    tools: tuple[str, ...] = ("onnx", "onnx-ir")  # distributions that took part
    notes: tuple[str, ...] = ()  # for the user
    proof: Any = None  # for the formats that are written next; see `Request.proofs`


Lower = Callable[[Request], Lowered]
"""What `NumberFormat.lower` names."""


def write_formats(
    bundle: Bundle,
    change: Change,
    formats: Sequence[NumberFormat],
    table: CalibrationTable | None = None,
    progress: Progress = SILENT,
) -> None:
    """Add the variants of `formats`, from wide to narrow, each proven on the golden images.

    They are added to `change`, of a `bundle` that is locked. The table has its rounded weights; it
    is None where no format needs it.
    """
    proofs: dict[Precision, object] = {}
    is_large = bundle.has(bundle.graph() + WEIGHTS)
    for each in formats:
        spill = Spill(0 if is_large else None)
        request = Request(bundle, table, proofs, progress, spill)
        lowered = import_target(each.lower)(request)
        proofs[each.name] = lowered.proof
        made_by = installed_versions(*lowered.tools)
        change.add(lowered.files, parents=lowered.parents, made_by=made_by)
        for note in lowered.notes:
            progress.note(note)


def lower_fp16(request: Request) -> Lowered:
    """Write FP16, and prove on the golden images that nothing in it overflows."""
    bundle, model, golden = request.bundle, request.read_model(), request.bundle.read_golden()
    with request.progress.step(f"writing {FP16.title}"):
        if request.table is not None:
            fp32_nodes = dict(request.table.fp32_nodes)
        else:
            amax = observe_amax(model, bundle.spec, list(golden.images))
            fp32_nodes = choose_fp32_nodes(model, amax)
        half = write_half(model, fp32_nodes, request.spill)
        del model  # the proof needs its memory
        proof = prove_half(half, bundle.spec, golden, len(fp32_nodes))
    note = (
        f"FP16, each node rounded: cosine {proof.cosine_min:.6f} with fp32 on the golden images, "
        f"nothing overflows; {_name_some(fp32_nodes)}"
    )
    files = files_of(half, FP16.file, request.spill) | {FP16.proof: proof.to_bytes()}
    return Lowered(files, request.parents, ("onnx", "onnx-ir", "onnxruntime"), (note,), proof)


def lower_int8(request: Request) -> Lowered:
    """Write INT8 for each target from the calibration table, and try it on the golden images."""
    bundle, table = request.bundle, request.table
    assert table is not None, "INT8 is written from a table"
    with request.progress.step(f"writing {INT8.title}"):
        model, spill = request.read_model(), request.spill
        num_bytes = size_of(model)
        portable = write_qdq(model, table, spill=spill)
        return_memory(num_bytes)
        symmetric = write_qdq(model, table, is_symmetric=True, spill=spill)
        return_memory(num_bytes)
        half = write_half(symmetric, table.int8_fp32_nodes, spill)
        del model, symmetric
        graphs = {"tensorrt": half, "ort-x64": write_ort_x64(portable, spill), "cpu": portable}
        files: dict[str, bytes | Path] = {}
        for each in INT8.variants:
            files |= files_of(graphs[each.target], each.file, spill)
        del graphs
        return_memory(num_bytes)
    with request.progress.step(f"trying {INT8.title} on the golden images"):
        golden = bundle.read_golden()
        proof = prove_int8(portable, bundle.spec, golden, images=_name_golden(bundle))
        in_half = prove_int8_in_half(half, bundle.spec, golden)
    every = [each.deviations for each in (proof, in_half) if each.deviations]
    if every:  # else a value is not finite, and nothing is expected
        largest = tuple(max(image) for image in zip(*every, strict=True))
        files[INT8.proof] = GoldenProof(largest).to_bytes()
    half_alone = note_lost_in_half(proof, in_half, request.proofs[INT8.around])
    notes = tuple(filter(None, (str(proof), note_below_forecast(proof, table.sqnr), half_alone)))
    return Lowered(files, request.parents, notes=notes, proof=proof)


def _name_golden(bundle: Bundle) -> str:
    record = ExportRecord.from_bytes(bundle.read(RECORD)) if bundle.has(RECORD) else None
    is_sample = record is not None and record.parity.images == SAMPLE_PHOTOGRAPHS
    return SAMPLE_PHOTOGRAPHS if is_sample else GOLDEN_IMAGES


def _name_some(fp32_nodes: Mapping[str, str]) -> str:
    if not fp32_nodes:
        return "no node needs float32"
    name, reason = next(iter(fp32_nodes.items()))
    others = f" and {len(fp32_nodes) - 1} more" if len(fp32_nodes) > 1 else ""
    return f"{name}{others} in float32 ({reason})"
