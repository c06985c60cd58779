"""ONNX Runtime's own form of the INT8 graph: the same numbers, fewer passes over memory."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest
from graph_files import INT8_CPU, INT8_ORT_X64
from seeded import ALL_INT8, SITES, random_images, run_onnx

from edge_vit.bundle import Bundle
from edge_vit.graph.edit import add_constant
from edge_vit.lowering import ort_x64
from edge_vit.lowering.ort_x64 import DOMAIN, fuse_attention, write_ort_x64
from edge_vit.lowering.ort_x64_pixels import fold_pixels
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime import cpu
from edge_vit.runtime import ort as runtime_ort
from edge_vit.spec.table import DEFAULT_RECIPE

pytestmark = pytest.mark.uncounted


def finished(model: ir.Model) -> onnx.ModelProto:
    """Return `model` without what nobody reads any more, for ONNX Runtime."""
    model.opset_imports[DOMAIN] = 1
    passes.RemoveUnusedNodesPass()(model)
    return ir.to_proto(model)


def assert_same(
    model: onnx.ModelProto, reference: onnx.ModelProto, images: np.ndarray, rtol: float
) -> None:
    """Hold outputs against those of `reference`, relative to the largest of these."""
    expected = run_onnx(reference, images)
    np.testing.assert_allclose(
        run_onnx(model, images), expected, atol=rtol * np.abs(expected).max()
    )


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.fixture(params=[True, False], ids=["few tokens", "many tokens"])
def is_short(request, monkeypatch) -> bool:
    """Say whether the tokens are few enough for attention to have its products inside."""
    if not request.param:
        monkeypatch.setattr(ort_x64, "MAX_TOKENS", 1)
    return request.param


@pytest.fixture(params=["fast", DEFAULT_RECIPE.name])
def portable(request, either_vit) -> onnx.ModelProto:
    return write_qdq(
        either_vit.model, either_vit.calibrate(random_images(16), ALL_INT8[request.param])
    )


@pytest.mark.usefixtures("is_short")
def test_gives_the_same_outputs_behind_the_same_tokens(either_vit, portable, monkeypatch):
    monkeypatch.setattr(ort_x64, "fold_pixels", lambda graph: False)
    images = random_images(3)
    expected = run_onnx(portable, images)
    got = run_onnx(write_ort_x64(portable), images)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - run_onnx(either_vit.model, images)).max() > 1e-3  # INT8 it is


def test_is_as_near_to_fp32_as_the_portable_graph(either_vit, portable):
    """Tokens that differ in the fifth digit turn some INT8 levels into their neighbours."""
    batches = np.split(random_images(63), 21)
    noises = [
        sum(np.square(run_onnx(m, b) - run_onnx(either_vit.model, b)).sum() for b in batches)
        for m in (write_ort_x64(portable), portable)
    ]
    assert 10 * np.log10(noises[0] / noises[1]) < 0.6


def test_every_site_is_one_product_with_its_bias_and_no_split_is_left(portable, is_short):
    before, after = operators(portable), operators(write_ort_x64(portable))
    num_blocks = len(SITES) // 4
    products = len(SITES) + (-1 if is_short else 2) * num_blocks  # q, k and v: inside, or apart
    assert after["MatMulIntegerToFloat"] == products + 2  # which make the tokens, in place of Conv
    assert after["QuantizeLinear"] == len(SITES)
    assert after["DequantizeLinear"] == after["Split"] == 0
    assert after["QAttention"] == num_blocks * is_short
    assert after["MultiHeadAttention"] == num_blocks * (not is_short)
    # Two products of each attention are inside it.
    assert before["MatMul"] - after["MatMul"] == len(SITES) + 2 * num_blocks
    assert after["Conv"] == after["Softmax"] == 0


def test_leaves_what_is_not_int8_alone(vit, table, monkeypatch):
    name = "block1/fc2"
    spared = dataclasses.replace(table.sites[name], precision="fp16")
    table = dataclasses.replace(table, sites={**table.sites, name: spared})
    portable = write_qdq(vit.model, table)
    monkeypatch.setattr(ort_x64, "fold_pixels", lambda graph: False)
    model, images = write_ort_x64(portable), random_images(2)
    assert operators(model)["QuantizeLinear"] == len(SITES) - 1
    assert_same(model, portable, images, 1e-4)
    (node,) = [n for n in model.graph.node if n.name == name]
    assert node.op_type == "MatMul"


def test_a_lost_quantization_loses_the_kernel(portable):
    """The counts above would see it."""
    (node,) = [n for n in portable.graph.node if n.name == "block0/fc1/quantize"]
    (reader,) = [n for n in portable.graph.node if n.name == "block0/fc1"]
    reader.input[0] = node.input[0]
    assert operators(write_ort_x64(portable))["QuantizeLinear"] == len(SITES) - 1


def test_pixels_to_tokens_is_exact_in_integers(either_vit):
    model, images = ir.from_proto(either_vit.model), random_images(3)
    assert fold_pixels(model.graph)
    folded = finished(model)
    assert operators(folded)["Conv"] == 0
    assert operators(folded)["MatMulIntegerToFloat"] == 2
    expected = run_onnx(either_vit.model, images)
    np.testing.assert_allclose(
        run_onnx(folded, images), expected, atol=1e-4 * np.abs(expected).max()
    )
    gray = np.full_like(images, 124)
    change = run_onnx(folded, gray) - run_onnx(either_vit.model, gray)
    assert np.abs(change).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "values"),
    [("strides", [1, 1]), ("pads", [1, 1, 1, 1]), ("group", 3), ("dilations", [2, 2])],
    ids=["overlapping", "padded", "grouped", "with gaps"],
)
def test_leaves_another_patch_embedding_alone(either_vit, name, values):
    model = ir.from_proto(either_vit.model)
    (conv,) = [node for node in model.graph if node.op_type == "Conv"]
    conv.attributes[name] = ir.convenience.convert_attribute(name, values)
    before = [node.op_type for node in model.graph]
    assert not fold_pixels(model.graph)
    assert [node.op_type for node in model.graph] == before


def test_tokens_may_be_cut_with_channels_last(either_vit):
    """Transpose and Reshape in place of Reshape and Transpose, as InternViT and DINOv3 have it."""
    model, images = ir.from_proto(either_vit.model), random_images(3)
    (conv,) = [node for node in model.graph if node.op_type == "Conv"]
    (reshape,) = conv.outputs[0].consumers()
    (transpose,) = reshape.outputs[0].consumers()
    rows = ir.node("Transpose", [conv.outputs[0]], {"perm": (0, 2, 3, 1)})
    shape = add_constant(model.graph, "shape", np.array([0, 16, 32]))
    tokens = ir.node("Reshape", [rows.outputs[0], shape])
    for node in (rows, tokens):
        node.outputs[0].name = f"last/{node.op_type}"
        model.graph.insert_before(transpose, node)
    tokens.outputs[0].shape = transpose.outputs[0].shape
    transpose.outputs[0].replace_all_uses_with(tokens.outputs[0])
    model.graph.remove([transpose, reshape], safe=True)
    assert fold_pixels(model.graph)
    folded = finished(model)
    assert operators(folded)["Conv"] == 0
    assert_same(folded, either_vit.model, images, 1e-4)


@pytest.mark.parametrize("reader", ["Relu", "Shape"])
def test_planes_that_others_read_stay(either_vit, reader):
    """A whole shape of them is another than that of the pixels."""
    model = ir.from_proto(either_vit.model)
    (conv,) = [node for node in model.graph if node.op_type == "Conv"]
    other = ir.node(reader, [conv.inputs[0]])
    other.outputs[0].name = "other"
    model.graph.insert_before(conv, other)
    model.graph.outputs.append(other.outputs[0])
    assert not fold_pixels(model.graph)


def test_attention_is_one_operator_of_the_same_function(either_vit):
    model, images = ir.from_proto(either_vit.model), random_images(3)
    assert fuse_attention(model.graph) == len(SITES) // 4
    fused = finished(model)
    assert operators(fused)["Softmax"] == 0
    assert_same(fused, either_vit.model, images, 2e-5)


def test_leaves_a_masked_attention_alone(either_vit):
    """What stands between scores and softmax is not for one operator."""
    model = ir.from_proto(either_vit.model)
    (first, *_) = [node for node in model.graph if node.op_type == "Softmax"]
    mask = ir.node("Add", [first.inputs[0], add_constant(model.graph, "mask", np.float32(1))])
    mask.outputs[0].name = "masked"
    model.graph.insert_before(first, mask)
    first.replace_input_with(0, mask.outputs[0])
    assert fuse_attention(model.graph) == len(SITES) // 4 - 1


class Shelf:
    """A bundle that only says what it holds."""

    graph = Bundle.graph

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
    monkeypatch.setattr(cpu, "has_vnni", lambda: vnni)
    assert runtime_ort.choose_graph(Shelf(*names), "int8") == expected
