"""A bundle of a small ViT with every graph that TensorRT builds, made in a second."""

from __future__ import annotations

from pathlib import Path

from graph_files import FP16, FP32, INT8
from seeded import random_images, seeded_vit

from edge_vit.bundle import TABLE, Bundle, draft_bundle
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.trt.build import Builder
from edge_vit.runtime.trt.identity import Hardware

RTX = Builder("rtx", "1.7.1.116", "TensorRT-RTX 1.7.1.116", targets=("sm_86", "sm_89"))
ORIN = Builder(
    "trt",
    "10.3.0",
    "TensorRT 10.3.0",
    takes_timing_cache=True,
    hardware=Hardware("Orin", "sm_87", "12.6", "12", is_integrated=True, free_bytes=1 << 32),
)


def write_bundle(path: Path, batch: int | None = None) -> Bundle:
    """Write the bundle to `path`; its batch is dynamic unless `batch` is given."""
    vit = seeded_vit(batch)
    table = vit.calibrate(random_images(2))
    graphs = {
        FP32: vit.model,
        FP16: write_half(vit.model),
        INT8: write_half(write_qdq(vit.model, table)),
    }
    with draft_bundle(path, vit.spec) as draft:
        draft.add(
            {TABLE: table.to_bytes()}
            | {name: graph.SerializeToString() for name, graph in graphs.items()}
        )
    return Bundle.open(path)
