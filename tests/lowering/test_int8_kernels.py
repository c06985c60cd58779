"""INT8 in the file is INT8 in the machine: no product that was meant to be falls back to float."""

from __future__ import annotations

import kernels
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from seeded import ALL_INT8, SITES, random_images

from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.cpu import has_vnni
from edge_vit.spec.table import DEFAULT_RECIPE

pytestmark = pytest.mark.uncounted


@pytest.fixture(params=["minmax", DEFAULT_RECIPE.name])
def portable(request, either_vit) -> onnx.ModelProto:
    """Without zero points, and as it is made by default."""
    return write_qdq(
        either_vit.model, either_vit.calibrate(random_images(16), ALL_INT8[request.param])
    )


def test_onnx_runtime_runs_every_site_of_the_portable_graph_in_int8(portable, tmp_path):
    products = kernels.onnx_runtime_products(portable, tmp_path)
    assert products.int8 == set(SITES)
    attention = {f"block{i}/{name}" for i in range(2) for name in ("scores", "context")}
    assert {*products.floating} == attention | {"head/MatMul"}


def test_onnx_runtime_runs_every_site_of_its_own_form_in_int8(portable, tmp_path):
    products = kernels.onnx_runtime_products(write_ort_x64(portable), tmp_path)
    assert products.int8 == {*SITES, "embed/pixels"}
    assert not products.floating & set(SITES)


@pytest.mark.skipif(not has_vnni(), reason="without VNNI, OpenVINO is told to compute in float")
def test_openvino_runs_every_site_of_the_portable_graph_in_int8(portable):
    products = kernels.openvino_products(portable)
    assert products.int8 == set(SITES)
    assert not products.floating & set(SITES)


def flatten_bias(model: onnx.ModelProto, site: str) -> None:
    """Let a bias be a vector: of fixed shapes ONNX Runtime then makes one float Gemm."""
    (add,) = [node for node in model.graph.node if node.name == f"{site}/bias"]
    (bias,) = [t for t in model.graph.initializer if t.name in add.input]
    vector = numpy_helper.to_array(bias).reshape(-1)
    model.graph.initializer.append(numpy_helper.from_array(vector, "vector"))
    add.input[list(add.input).index(bias.name)] = "vector"


def drop_quantizer(model: onnx.ModelProto, site: str) -> None:
    """Let a site read its activation as it is."""
    (quantize,) = [node for node in model.graph.node if node.name == f"{site}/quantize"]
    (matmul,) = [node for node in model.graph.node if node.name == site]
    matmul.input[0] = quantize.input[0]


def share_quantizer(model: onnx.ModelProto, site: str) -> None:
    """Let another product read the same int8 activation: ONNX Runtime then computes in float."""
    (matmul,) = [node for node in model.graph.node if node.name == site]
    second = model.graph.node.add()
    second.CopyFrom(matmul)
    second.name, second.output[0] = "second", "second:0"
    model.graph.output.append(onnx.ValueInfoProto(name="second:0"))


@pytest.mark.parametrize("site", ["block1/fc1", "block0/qkv"])
@pytest.mark.parametrize("damage", [flatten_bias, drop_quantizer, share_quantizer])
def test_one_broken_layer_shows_in_onnx_runtime(static_vit, tmp_path, damage, site):
    broken = write_qdq(static_vit.model, static_vit.calibrate(random_images(4)))
    damage(broken, site)
    products = kernels.onnx_runtime_products(broken, tmp_path)
    assert products.int8 == set(SITES) - {site}


@pytest.mark.skipif(not has_vnni(), reason="without VNNI, OpenVINO is told to compute in float")
def test_one_broken_layer_shows_in_openvino(static_vit):
    broken = write_qdq(static_vit.model, static_vit.calibrate(random_images(4)))
    drop_quantizer(broken, "block1/fc1")
    assert kernels.openvino_products(broken).int8 == set(SITES) - {"block1/fc1"}


def test_blind_scales_quantize_the_same_sites(static_vit, tmp_path):
    """What the tests of whole models use, where calibrating would take long."""
    model = kernels.quantize_blindly(static_vit.model)
    assert kernels.onnx_runtime_products(model, tmp_path).int8 == set(SITES)
    weights = [t for t in model.graph.initializer if t.name.endswith("/weight")]
    assert all(np.abs(numpy_helper.to_array(t)).max() == 127 for t in weights)
