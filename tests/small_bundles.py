"""A bundle of a few bytes, for tests of what happens to its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from graph_files import FP32

from edge_vit.bundle import GOLDEN, TABLE, Bundle, Golden, digest_of, draft_bundle
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.spec.table import RECIPES, CalibrationTable, SiteScales

SPEC = ModelSpec(
    name="tiny",
    source="test:tiny",
    task="classification",
    labels=("cat", "chat \N{CAT}"),
    inputs=(image_input((8, 8)),),
    outputs=(task_output("classification", 2),),
    preprocess=PreprocessSpec((8, 8), "bilinear", 0.9, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    depth=2,
    num_heads=3,
    embed_dim=12,
    num_tokens=17,
    licence="apache-2.0",
)
GRAPH = b"fp32 graph"
IMAGES = Golden(np.arange(384, dtype=np.uint8).reshape(2, 8, 8, 3), np.eye(2, dtype=np.float32))


def table_for(graph: bytes = GRAPH) -> CalibrationTable:
    scales = SiteScales("int8", "as the recipe says", 0.1, (0.01, 0.02), 12.7, 4.5)
    return CalibrationTable(
        RECIPES["percentile"], digest_of(graph), {"block0/qkv": scales}, ("ab" * 32,)
    )


def write_bundle(path: Path) -> Bundle:
    """Write a bundle with a graph, golden outputs and a table to `path`."""
    with draft_bundle(path, SPEC) as draft:
        draft = draft.add({FP32: GRAPH}, made_by={"torch": "2.6"})
        draft = draft.add({GOLDEN: IMAGES.to_bytes()}, parents=(FP32,))
        draft.add({TABLE: table_for().to_bytes()}, parents=(FP32,), made_by={"edge-vit": "0.1"})
    return Bundle.open(path)


def names(folder: Path) -> list[str]:
    """Names of what lies in `folder`, drafts and other hidden things too."""
    return sorted(path.name for path in folder.iterdir())
