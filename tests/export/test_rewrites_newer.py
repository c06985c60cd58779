"""Operators of opset 23, spelled out: the same numbers, and nothing that only looks alike."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.export.rewrites.operators import spell_out_newer

HEADS, TOKENS, WIDTH = 2, 5, 8


def attention_model(mask=None, heads_of_keys=HEADS, **attributes) -> onnx.ModelProto:
    """Return Attention of x as queries, of its first heads as keys and of 2 x as values."""
    shape = ["b", HEADS, TOKENS, WIDTH]
    constants = {
        "two": np.float32(2),
        "start": np.array([0], np.int64),
        "end": np.array([heads_of_keys], np.int64),
        "axis": np.array([1], np.int64),
    }
    inputs = ["x", "k", "v"]
    if mask is not None:
        constants["mask"] = mask
        inputs.append("mask")
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["k"]),
        helper.make_node("Mul", ["k", "two"], ["v"]),
        helper.make_node("Attention", inputs, ["y"], **attributes),
    ]
    return model_of(nodes, shape, constants)


def model_of(nodes, shape, constants) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "newer",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, shape) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def spell_out(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    changed = ir.from_proto(model)
    count = spell_out_newer(changed.graph)
    changed.graph.opset_imports[""] = 19 if count else 23
    for node in [n for n in changed.graph if not any(o.uses() for o in n.outputs)]:
        if not any(output.is_graph_output() for output in node.outputs):
            changed.graph.remove(node, safe=True)
    proto = ir.to_proto(changed)
    onnx.checker.check_model(proto, full_check=True)
    return count, proto


SEEN = np.tril(np.ones((TOKENS, TOKENS), bool))


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="as it comes"),
        pytest.param({"scale": 0.9}, id="own scale"),
        pytest.param({"mask": SEEN}, id="mask of truth"),
        pytest.param({"mask": np.where(SEEN, 0.5, -3).astype(np.float32)}, id="mask of numbers"),
    ],
)
def test_attention_says_the_same(more):
    model, shape = attention_model(**more), (3, HEADS, TOKENS, WIDTH)
    count, spelled = spell_out(model)
    assert count == 1
    assert "Attention" not in {node.op_type for node in spelled.graph.node}
    np.testing.assert_allclose(run(spelled, shape), run(model, shape), atol=2e-6)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"is_causal": 1}, id="causal"),
        pytest.param({"softcap": 5.0}, id="capped"),
        pytest.param({"heads_of_keys": 1}, id="grouped heads"),
    ],
)
def test_attention_that_does_more_is_left(more):
    count, _ = spell_out(attention_model(**more))
    assert count == 0


@pytest.mark.parametrize(("axis", "expected"), [(-1, 1), (2, 1), (1, 0)])
def test_rms_norm_over_the_last_axis_says_the_same(axis, expected):
    weight = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    weight = weight if expected else np.ones((TOKENS, WIDTH), np.float32)
    node = helper.make_node("RMSNormalization", ["x", "w"], ["y"], axis=axis, epsilon=1e-3)
    model, shape = model_of([node], ["b", TOKENS, WIDTH], {"w": weight}), (2, TOKENS, WIDTH)
    count, spelled = spell_out(model)
    assert count == expected
    np.testing.assert_allclose(run(spelled, shape), run(model, shape), atol=1e-5)


def fold_model(**attributes) -> onnx.ModelProto:
    """Return Col2Im of x, (b, 3 * 2 * 4, 6): pixels (4, 12) where blocks do not overlap."""
    nodes = [helper.make_node("Col2Im", ["x", "picture", "block"], ["y"], **attributes)]
    sizes = {"picture": np.array([4, 12]), "block": np.array([2, 4])}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "fold",
        [value("x", TensorProto.FLOAT, ["b", 24, 6])],
        [value("y", TensorProto.FLOAT, ["b", 3, 4, 12])],
        [numpy_helper.from_array(array, name) for name, array in sizes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def test_blocks_side_by_side_are_moved():
    model = fold_model(strides=[2, 4])
    count, spelled = spell_out(model)
    assert count == 1
    assert "Col2Im" not in {node.op_type for node in spelled.graph.node}
    assert np.array_equal(run(spelled, (2, 24, 6)), run(model, (2, 24, 6)))


@pytest.mark.parametrize(
    "attributes", [{"strides": [1, 4]}, {"strides": [2, 4], "pads": [0, 2, 0, 2]}]
)
def test_blocks_that_overlap_or_reach_out_stay(attributes):
    assert spell_out(fold_model(**attributes))[0] == 0
