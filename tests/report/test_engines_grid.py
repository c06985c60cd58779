"""The grid of engines: what is known is said, and by whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edge_vit.report.machine import engines_grid
from edge_vit.runtime.trt.audit import EngineAudit, Product
from edge_vit.runtime.trt.identity import EngineIdentity
from edge_vit.runtime.trt.store import Engine, Sidecar

IDENTITY = EngineIdentity(
    "int8", "0" * 64, "trt", "10.3.0", "Orin", ("sm_87",), "12.6", "12", (1, 1, 1), None
)
PRODUCTS = {"block0/fc1": Product("int8", 90), "head": Product("fp16", 10)}
BUILT = EngineAudit("engine", {"int8": 1, "fp16": 5}, PRODUCTS, 3, 1, 1, 2)
SIDECAR = Sidecar(1, IDENTITY, "0" * 64, 12_300_000, "now", 61.25, "1", ("slow",), BUILT)
ON_DEVICE = Engine(Path("a.engine"), SIDECAR, is_new=True)
AHEAD = Engine(
    Path("b.engine"),
    dataclasses.replace(
        SIDECAR,
        identity=dataclasses.replace(
            IDENTITY, backend="rtx", version="1.7.1", gpu="", targets=("sm_86", "sm_89")
        ),
        warnings=(),
        audit=EngineAudit("network", {"int8": 1}, PRODUCTS, num_blocks=1),
    ),
)


def rows(*engines):
    return {row[0]: row[1:] for row in engines_grid(engines).rows}


def test_an_engine_of_a_device_says_all():
    grid = engines_grid([ON_DEVICE])
    assert grid.columns == ("", "int8")
    assert grid.note == "Layers as the engine's own inspector lists them."
    assert rows(ON_DEVICE) == {
        "built with": ("TensorRT 10.3.0",),
        "for": ("Orin sm_87",),
        "batch": ("1",),
        "size": ("12.3 MB",),
        "built in": ("61.2 s",),
        "state": ("built now",),
        "multiply-adds in int8": ("90.0 %",),
        "multiply-adds in fp16": ("10.0 %",),
        "multiply-adds in fp32": ("0.0 %",),
        "layers in int8": ("1",),
        "layers in fp16": ("5",),
        "layers in fp32": ("0",),
        "products named by the engine": ("2 of 2",),
        "reformats": ("3",),
        "fused attention": ("1 of 1 blocks",),
        "warnings of TensorRT": ("1",),
    }


def test_an_engine_that_nobody_loaded_says_so():
    grid = engines_grid([AHEAD])
    assert grid.note.endswith("no GPU here has loaded these engines.")
    found = rows(AHEAD)
    assert found["built with"] == ("TensorRT-RTX 1.7.1",)
    assert found["for"] == ("sm_86+sm_89",)
    assert not {"reformats", "fused attention", "warnings of TensorRT"} & found.keys()


def test_both_side_by_side():
    assert rows(ON_DEVICE, AHEAD)["reformats"] == ("3", "–")
    assert "where no GPU has loaded the engine" in engines_grid([ON_DEVICE, AHEAD]).note
