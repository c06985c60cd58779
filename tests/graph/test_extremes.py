"""The largest and the smallest element of values inside a graph, and nothing kept for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_vit.graph.expose import add_extremes, float_values, read_amax

ort = pytest.importorskip("onnxruntime")


def chain(length: int, width: int = 4) -> onnx.ModelProto:
    """x -> x + x -> ... , float32 (width)."""
    nodes = [helper.make_node("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [width])
        for name in ("v0", f"v{length}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"v0": x})


def test_says_how_large_each_value_becomes():
    model = chain(3)
    names = float_values(model)
    assert names == ["v1", "v2", "v3"]
    x = np.array([1, -3, 2, 0], np.float32)
    output, *extremes = run(add_extremes(model, names), x)
    np.testing.assert_array_equal(output, 8 * x)
    assert read_amax(names, extremes) == {"v1": 6, "v2": 12, "v3": 24}


@pytest.mark.parametrize("bad", [[1, np.nan, 2], [np.nan, 1, 2], [1, -np.inf, 2], [np.nan] * 3])
def test_what_is_not_finite_is_infinite(bad):
    model = chain(2, width=3)
    names = float_values(model)
    _, *extremes = run(add_extremes(model, names), np.array(bad, np.float32))
    assert read_amax(names, extremes) == {"v1": np.inf, "v2": np.inf}


def test_keeps_the_order_in_which_it_was_asked_and_leaves_the_model_alone():
    model = chain(3)
    before = model.SerializeToString(deterministic=True)
    _, *extremes = run(add_extremes(model, ["v3", "v1"]), np.ones(4, np.float32))
    assert read_amax(["v3", "v1"], extremes) == {"v3": 8, "v1": 2}
    assert model.SerializeToString(deterministic=True) == before


def test_asks_right_behind_the_node_that_makes_a_value():
    """Asked at the end, ONNX Runtime would keep all values until then."""
    nodes = add_extremes(chain(3), ["v1", "v2", "v3"]).graph.node
    assert [node.op_type for node in nodes] == ["Add", "ReduceMax", "ReduceMin", "ReduceSum"] * 3
