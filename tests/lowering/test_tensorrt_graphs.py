"""The real builder takes every graph, and reads INT8 out of it exactly where it was put."""

from __future__ import annotations

import dataclasses

import onnx
import pytest
import rtx
from onnx import numpy_helper
from seeded import SITES, Seeded

from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import MIN_SCALE

pytestmark = [
    pytest.mark.uncounted,
    pytest.mark.skipif(
        not rtx.HAS_RTX, reason="tensorrt_rtx comes with the dev extra on x86-64 Linux alone"
    ),
]


def precisions(vit: Seeded, table) -> dict[str, onnx.ModelProto]:
    return {
        "fp32": vit.model,
        "fp16": write_half(vit.model),
        "int8": write_half(write_qdq(vit.model, table, is_symmetric=True)),
        "int8.cpu": write_qdq(vit.model, table),
    }


@pytest.fixture(params=["fp32", "fp16", "int8", "int8.cpu"])
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def int8(vit, table) -> onnx.ModelProto:
    return precisions(vit, table)["int8"]


def test_builds_every_precision(either_vit, table, precision):
    batch = either_vit.spec.static_batch or -1
    network = rtx.build(precisions(either_vit, table)[precision])
    assert network.complaints == ()
    assert network.plan_bytes > 0
    assert network.inputs == (("images", "UINT8", (batch, 32, 32, 3)),)
    assert network.outputs == (("logits", "FLOAT", (batch, 10)),)
    int8_sites = set(SITES) if "int8" in precision else set()
    assert network.int8_layers(SITES) == int8_sites
    assert network.count("QUANTIZE") == len(int8_sites)
    assert network.count("DEQUANTIZE") == 2 * len(int8_sites)
    assert network.count("NORMALIZATION") == 2 * 2 + 1


def test_products_and_norms_run_in_the_precision_that_the_graph_says(vit, table, precision):
    network = rtx.build(precisions(vit, table)[precision])
    floats = "HALF" if precision in ("fp16", "int8") else "FLOAT"
    computing = [
        layer
        for layer in network.layers.values()
        if layer.kind in ("MATRIX_MULTIPLY", "NORMALIZATION", "SOFTMAX", "CONVOLUTION")
    ]
    assert len(computing) == (len(SITES) + 2 * 2 + 1) + (2 * 2 + 1) + 2 + 1
    for layer in computing:
        assert {*layer.input_types, *layer.output_types} == {floats}


def test_quantizers_are_asked_for_by_the_sites_alone(int8):
    network = rtx.build(int8)
    quantizing = {n for n, layer in network.layers.items() if layer.kind in QUANTIZING}
    wanted = {f"{s}/{step}" for s in SITES for step in ("quantize", "dequantize", "weights")}
    assert quantizing == wanted


QUANTIZING = ("QUANTIZE", "DEQUANTIZE")


def without(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Return `model` without some nodes; who read one reads what it read."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    removed = {n.output[0]: n.input[0] for n in changed.graph.node if n.name in names}
    assert len(removed) == len(names)
    kept = [n for n in changed.graph.node if n.name not in names]
    for n in kept:
        for index, name in enumerate(n.input):
            while name in removed:
                name = removed[name]
            n.input[index] = name
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
    return changed


def test_a_missing_activation_pair_shows(int8):
    network = rtx.build(without(int8, "block1/fc1/quantize", "block1/fc1/dequantize"))
    assert network.int8_layers(SITES) == set(SITES) - {"block1/fc1"}
    assert network.count("QUANTIZE") == len(SITES) - 1


def test_a_missing_weight_pair_shows(vit, int8):
    half = write_half(vit.model)
    broken = without(int8, "block0/proj/weights")
    floats = {t.name: t for t in half.graph.initializer}
    (plain,) = [n for n in half.graph.node if n.name == "block0/proj"]
    (matmul,) = [n for n in broken.graph.node if n.name == "block0/proj"]
    broken.graph.initializer.append(floats[plain.input[1]])
    matmul.input[1] = plain.input[1]
    network = rtx.build(broken)
    assert network.int8_layers(SITES) == set(SITES) - {"block0/proj"}


def test_an_fp16_site_stays_fp16(vit, table):
    kept = dataclasses.replace(table.sites["block0/fc2"], precision="fp16", reason="test")
    mixed = dataclasses.replace(table, sites={**table.sites, "block0/fc2": kept})
    network = rtx.build(precisions(vit, mixed)["int8"])
    assert network.int8_layers(SITES) == set(SITES) - {"block0/fc2"}
    assert set(network.layers["block0/fc2"].input_types) == {"HALF"}


def test_the_smallest_scale_builds(vit, table):
    """A dead channel: its scale is `MIN_SCALE` in float16 too, and the builder refuses zero."""
    dead = dataclasses.replace(
        table.sites["block0/qkv"], activation_scale=MIN_SCALE, weight_scales=(MIN_SCALE,) * 96
    )
    smallest = dataclasses.replace(table, sites={**table.sites, "block0/qkv": dead})
    model = precisions(vit, smallest)["int8"]
    assert rtx.build(model).int8_layers(SITES) == set(SITES)

    for tensor in model.graph.initializer:
        if tensor.name == "block0/qkv/weight_scale/half":
            zeros = numpy_helper.to_array(tensor) * 0
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    with pytest.raises(rtx.BuildRefusedError, match="must all be positive"):
        rtx.build(model)
