"""The multiplication in front of an MLP's second layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import rtx
from seeded import SITES, random_images, run_onnx, sqnr_db

from edge_vit.calibration.coverage import find_overshoots
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.lowering.rotation import as_calibrated, scale_hidden
from edge_vit.spec.table import RECIPES

IMAGES = random_images(12, seed=3)
SCALED = dataclasses.replace(RECIPES["fast"], scales_hidden=True, fold_strength=0.5)


def uneven(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with one hidden unit of each MLP thirty times as large as the others."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    arrays = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and "fc2" in node.name:
            tensor = arrays[node.input[1]]
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[0] /= 30
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    for node in copy.graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and "fc1" in node.name:
            tensor = arrays[node.input[1]]
            weight = onnx.numpy_helper.to_array(tensor).copy()
            weight[:, 0] *= 30
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    return copy


@pytest.fixture(scope="module")
def wide(vit):
    return dataclasses.replace(vit, model=uneven(vit.model))


def test_the_function_stays_and_a_second_time_adds_nothing(vit):
    once = scale_hidden(vit.model)
    assert sum(node.op_type == "Mul" and "scaled" in node.name for node in once.graph.node) == 2
    np.testing.assert_allclose(run_onnx(once, IMAGES), run_onnx(vit.model, IMAGES), atol=1e-6)
    assert len(scale_hidden(once).graph.node) == len(once.graph.node)


def test_a_huge_hidden_unit_costs_less(wide):
    exact = run_onnx(wide.model, IMAGES)
    plain = wide.calibrate(random_images(32), RECIPES["fast"])
    scaled = wide.calibrate(random_images(32), SCALED)
    assert scaled.sites["block0/fc2"].divisors
    assert not plain.sites["block0/fc2"].divisors
    before, after = (
        sqnr_db(exact, run_onnx(write_qdq(wide.model, table), IMAGES)) for table in (plain, scaled)
    )
    assert after > before + 1
    assert find_overshoots(wide.model, wide.spec, scaled, random_images(32)) == ()


def test_every_variant_is_written(wide):
    table = wide.calibrate(random_images(32), SCALED)
    portable = write_qdq(wide.model, table)
    wanted = run_onnx(portable, IMAGES)
    x64 = run_onnx(write_ort_x64(portable), IMAGES)
    assert sqnr_db(wanted, x64) > 25
    half = write_half(write_qdq(wide.model, table, is_symmetric=True), table.int8_fp32_nodes)
    assert any(node.name == "block0/fc2/scaled" for node in half.graph.node)
    if rtx.HAS_RTX:
        assert rtx.build(half).int8_layers(SITES) == set(SITES)
    other = dataclasses.replace(table, recipe=RECIPES["fast"])
    assert as_calibrated(other, wide.model) is wide.model
