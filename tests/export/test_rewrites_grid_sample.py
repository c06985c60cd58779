"""GridSample as gathers gives what the operator gives, outside of the picture too."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edge_vit.export.rewrites.operators import write_grid_samples

RANDOM = np.random.default_rng(0)


def model_of(mode="bilinear", **attributes) -> onnx.ModelProto:
    """Return a graph that samples "x", (n, 3, 5, 7), at points that are made of it."""
    points = RANDOM.uniform(-1.4, 1.4, (1, 4, 6, 2)).astype(np.float32)
    points[0, 0] = [-1, 1]  # the picture's corner
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Add", ["points", "mean"], ["grid"]),
        helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 5, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 4, 6])],
        [
            onnx.numpy_helper.from_array(points, "points"),
            onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize("align_corners", [0, 1])
def test_samples_as_the_operator_does(align_corners):
    proto = model_of(align_corners=align_corners)
    images = RANDOM.standard_normal((3, 3, 5, 7), np.float32)
    wanted = run(proto, images)
    assert (wanted == 0).any()  # some points lie outside
    model = ir.from_proto(proto)
    assert write_grid_samples(model) == ()
    assert "GridSample" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(ir.to_proto(model), images), wanted, atol=1e-5)
    np.testing.assert_allclose(run(ir.to_proto(model), images[:1]), wanted[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [({"mode": "nearest"}, "nearest interp"), ({"padding_mode": "border"}, "border padding")],
)
def test_other_kinds_stay_and_are_named(attributes, why):
    model = ir.from_proto(model_of(**attributes))
    (note,) = write_grid_samples(model)
    assert note.startswith("1 GridSample left as they are: ")
    assert why in note
    assert "GridSample" in {node.op_type for node in model.graph}
