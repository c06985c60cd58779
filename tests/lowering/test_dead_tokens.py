"""What is computed behind the last attention is computed for the token that is read, if there is
one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest
import small_vits
from seeded import ALL_INT8, SITES, make_seeded, random_images, run_onnx, sqnr_db

from edge_vit.export.trace import trace_module
from edge_vit.graph.edit import add_constant
from edge_vit.lowering.dead_tokens import drop_dead_tokens, find_single_token_layers
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import RECIPES

pytestmark = pytest.mark.uncounted


@pytest.fixture(params=["fp32", "int8"])
def model(request, either_vit) -> onnx.ModelProto:
    if request.param == "fp32":
        return either_vit.model
    return write_qdq(either_vit.model, either_vit.calibrate(random_images(8)))


def inferred(model: onnx.ModelProto) -> ir.Model:
    opened = ir.from_proto(model)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(opened)
    return opened


def pick_of(opened: ir.Model) -> ir.Node:
    (pick,) = [node for node in opened.graph if node.op_type == "Gather"]
    return pick


def num_tokens(opened: ir.Model) -> dict[str, int]:
    """Tokens that go into each linear layer of a block."""
    return {node.name: node.inputs[0].shape[1] for node in opened.graph if node.name in SITES}


def test_the_last_block_works_for_one_token_and_says_the_same(model):
    opened, images = inferred(model), random_images(3)
    assert set(num_tokens(opened).values()) == {17}
    assert drop_dead_tokens(opened.graph) > 10
    narrow = {"block1/proj", "block1/fc1", "block1/fc2"}
    assert num_tokens(opened) == {name: 1 if name in narrow else 17 for name in SITES}
    expected = run_onnx(model, images)
    np.testing.assert_allclose(run_onnx(ir.to_proto(opened), images), expected, atol=2e-5)
    again = inferred(ir.to_proto(opened))  # the shapes are those that the graph has
    assert num_tokens(again) == num_tokens(opened)


NARROW = {"block1/proj", "block1/fc1", "block1/fc2"}


def test_the_layers_that_one_token_is_read_from_are_found(either_vit):
    assert find_single_token_layers(either_vit.model) == NARROW
    pooled = inferred(either_vit.model)
    average(pooled)
    assert not find_single_token_layers(ir.to_proto(pooled))


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_kept_in_fp16_they_compute_for_that_token_alone(either_vit, is_symmetric):
    recipe = replace(RECIPES["balanced"], steps=(), min_worth=0.0)
    table = either_vit.calibrate(random_images(8), recipe)
    assert {n for n, scales in table.sites.items() if not scales.is_quantized} == NARROW
    written = write_qdq(either_vit.model, table, is_symmetric=is_symmetric)
    assert num_tokens(inferred(written)) == {name: 1 if name in NARROW else 17 for name in SITES}
    assert drop_dead_tokens(inferred(written).graph) == 0  # ONNX Runtime's form finds none left
    every = write_qdq(either_vit.model, either_vit.calibrate(random_images(8), ALL_INT8["fast"]))
    images = random_images(3, seed=3)
    exact = run_onnx(either_vit.model, images)
    assert sqnr_db(exact, run_onnx(written, images)) > sqnr_db(exact, run_onnx(every, images))


@pytest.mark.parametrize("token", [-1, 3, 16])
def test_any_token_may_be_the_one(model, token):
    opened, images = inferred(model), random_images(3)
    pick = pick_of(opened)
    pick.replace_input_with(1, add_constant(opened.graph, "another", np.array(token)))
    expected = run_onnx(ir.to_proto(opened), images)
    assert not np.allclose(expected, run_onnx(model, images), atol=1e-3)
    assert drop_dead_tokens(opened.graph)
    np.testing.assert_allclose(run_onnx(ir.to_proto(opened), images), expected, atol=2e-5)


def test_a_pick_of_a_list_of_one_stays_one(model):
    """``x[:, [0]]`` keeps its axis."""
    opened, images = inferred(model), random_images(3)
    pick = pick_of(opened)
    pick.replace_input_with(1, add_constant(opened.graph, "list", np.array([0])))
    flat = ir.node("Reshape", [pick.outputs[0], add_constant(opened.graph, "flat", [0, -1])])
    flat.outputs[0].name = "flattened"
    opened.graph.insert_after(pick, flat)
    pick.outputs[0].replace_all_uses_with(flat.outputs[0])
    flat.replace_input_with(0, pick.outputs[0])
    expected = run_onnx(ir.to_proto(opened), images)
    assert drop_dead_tokens(opened.graph) > 10
    assert pick.inputs[1].const_value.numpy().shape == (1,)
    np.testing.assert_allclose(run_onnx(ir.to_proto(opened), images), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["rms norm, gated", "gated, packed"])
def test_sees_through_the_norm_and_the_gate_of_newer_models(name):
    module = small_vits.ARCHITECTURES[name]()
    vit = make_seeded(module, small_vits.SIZE, small_vits.CLASSES, trace=trace_module)
    opened, images = inferred(vit.model), random_images(3, size=small_vits.SIZE)
    expected = run_onnx(vit.model, images)
    assert drop_dead_tokens(opened.graph) > 10
    last = {"block1/proj", "block1/fc1", "block1/fc2"}
    assert all(num_tokens(opened)[site] == 1 for site in last)
    np.testing.assert_allclose(run_onnx(ir.to_proto(opened), images), expected, atol=2e-5)


def average(opened: ir.Model) -> None:
    pick = pick_of(opened)
    axis = add_constant(opened.graph, "axis", np.array([1]))
    mean = ir.node("ReduceMean", [pick.inputs[0], axis], {"keepdims": 0})
    mean.outputs[0].name = "mean"
    opened.graph.insert_before(pick, mean)
    pick.outputs[0].replace_all_uses_with(mean.outputs[0])
    opened.graph.remove(pick, safe=True)


def return_all(opened: ir.Model) -> None:
    opened.graph.outputs.append(pick_of(opened).inputs[0])


def forget_shapes(opened: ir.Model) -> None:
    for node in opened.graph:
        for value in node.outputs:
            value.shape = None


def pick_by_width(opened: ir.Model) -> None:
    pick_of(opened).attributes["axis"] = ir.AttrInt64("axis", 2)


@pytest.mark.parametrize("change", [average, return_all, forget_shapes, pick_by_width])
def test_leaves_alone_what_is_read_of_all_tokens_or_not_known(model, change):
    opened = inferred(model)
    change(opened)
    before = [node.op_type for node in opened.graph]
    assert drop_dead_tokens(opened.graph) == 0
    assert [node.op_type for node in opened.graph] == before


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("Add", (1, 17, 1), {}),
        ("Softmax", None, {"axis": 1}),
        ("LayerNormalization", (17, 32), {"axis": 1}),
    ],
    ids=["another constant for each token", "softmax over tokens", "norm over tokens"],
)
def test_stops_where_tokens_are_not_alike(either_vit, op_type, shape, attributes):
    """Such a node behind the last block keeps all of it as it was."""
    opened, images = inferred(either_vit.model), random_images(3)
    pick = pick_of(opened)
    numbers = np.random.default_rng(0).standard_normal(shape or 1).astype(np.float32)
    inputs = [pick.inputs[0]]
    if shape is not None:
        inputs.append(add_constant(opened.graph, "numbers", numbers))
    node = ir.node(op_type, inputs, attributes)
    node.outputs[0].name = "odd"
    node.outputs[0].shape = pick.inputs[0].shape
    opened.graph.insert_before(pick, node)
    pick.replace_input_with(0, node.outputs[0])
    expected = run_onnx(ir.to_proto(opened), images)
    assert drop_dead_tokens(opened.graph) == 0
    np.testing.assert_array_equal(run_onnx(ir.to_proto(opened), images), expected)
