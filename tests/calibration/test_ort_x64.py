"""ONNX Runtime's own form of the INT8 graph: the same numbers, fewer passes over memory."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest
from seeded import SITES, random_images, run_onnx

from edge_vit.bundle import INT8_CPU, INT8_ORT_X64
from edge_vit.calibration.ort_x64 import write_ort_x64
from edge_vit.calibration.qdq import write_qdq
from edge_vit.runtime import ort as runtime_ort
from edge_vit.table import DEFAULT_RECIPE, RECIPES


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(params=["fast", DEFAULT_RECIPE.name])
def portable(request, either_vit) -> onnx.ModelProto:
    return write_qdq(
        either_vit.model, either_vit.calibrate(random_images(16), RECIPES[request.param])
    )


def test_gives_the_same_outputs(either_vit, portable):
    images = random_images(3)
    expected = run_onnx(portable, images)
    got = run_onnx(write_ort_x64(portable), images)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - run_onnx(either_vit.model, images)).max() > 1e-3  # INT8 it is


def test_every_site_is_one_product_with_its_bias_and_no_split_is_left(portable):
    before, after = operators(portable), operators(write_ort_x64(portable))
    num_blocks = len(SITES) // 4
    assert after["MatMulIntegerToFloat"] == len(SITES) + 2 * num_blocks  # q, k and v apart
    assert after["QuantizeLinear"] == len(SITES)
    assert after["DequantizeLinear"] == after["Split"] == 0
    assert before["Add"] - after["Add"] == len(SITES)
    assert before["MatMul"] - after["MatMul"] == len(SITES)


def test_leaves_what_is_not_int8_alone(vit, table):
    name = "block1/fc2"
    spared = dataclasses.replace(table.sites[name], precision="fp16")
    table = dataclasses.replace(table, sites={**table.sites, name: spared})
    portable = write_qdq(vit.model, table)
    model, images = write_ort_x64(portable), random_images(2)
    assert operators(model)["QuantizeLinear"] == len(SITES) - 1
    expected = run_onnx(portable, images)
    np.testing.assert_allclose(
        run_onnx(model, images), expected, atol=1e-4 * np.abs(expected).max()
    )
    (node,) = [n for n in model.graph.node if n.name == name]
    assert node.op_type == "MatMul"


def test_a_lost_quantization_loses_the_kernel(portable):
    """The counts above would see it."""
    (node,) = [n for n in portable.graph.node if n.name == "block0/fc1/quantize"]
    (reader,) = [n for n in portable.graph.node if n.name == "block0/fc1"]
    reader.input[0] = node.input[0]
    assert operators(write_ort_x64(portable))["QuantizeLinear"] == len(SITES) - 1


class Shelf:
    """A bundle that only says what it holds, and what was taken."""

    path = None

    def __init__(self, *names: str) -> None:
        self.names = names

    def has(self, name: str) -> bool:
        return name in self.names


@pytest.mark.parametrize(
    ("vnni", "names", "expected"),
    [
        (True, (INT8_CPU, INT8_ORT_X64), INT8_ORT_X64),
        (True, (INT8_CPU,), INT8_CPU),
        (False, (INT8_CPU, INT8_ORT_X64), INT8_CPU),
    ],
    ids=["vnni", "older bundle", "no vnni"],
)
def test_is_run_only_where_the_processor_does_not_saturate(monkeypatch, vnni, names, expected):
    monkeypatch.setattr(runtime_ort, "has_vnni", lambda: vnni)
    assert runtime_ort.choose_graph(Shelf(*names), "int8") == expected
