"""A graph without its weights infers the shapes that the whole graph has, and copies no weight."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph.weightless import split_weights, without_weights


def make_graph(*, as_input: bool) -> onnx.ModelProto:
    """Return ``reshape(x @ weight, shape)``; with `as_input` the weight is an input as well."""
    weight = onnx.numpy_helper.from_array(np.ones((32, 48), np.float32), "weight")
    shape = onnx.numpy_helper.from_array(np.array([0, 6, 8]), "shape")
    tensor = onnx.helper.make_tensor_value_info
    inputs = [tensor("x", onnx.TensorProto.FLOAT, [2, 32])]
    inputs += [tensor("weight", onnx.TensorProto.FLOAT, [32, 48])] if as_input else []
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "weight"], ["product"]),
        onnx.helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    outputs = [tensor("y", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [weight, shape])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])


def test_weights_become_inputs_and_shapes_stay_constants() -> None:
    for as_input in (False, True):
        light = without_weights(make_graph(as_input=as_input))
        assert [value.name for value in light.graph.input] == ["x", "weight"]
        assert [tensor.name for tensor in light.graph.initializer] == ["shape"]
        (output,) = onnx.shape_inference.infer_shapes(light).graph.output
        assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [2, 6, 8]


def test_splitting_leaves_the_model_as_it_was() -> None:
    model = ir.from_proto(make_graph(as_input=False))
    before = ir.to_proto(model).SerializeToString()
    proto, weights = split_weights(model)
    assert proto.ByteSize() < 1000
    assert weights["weight"].numpy().shape == (32, 48)
    assert ir.to_proto(model).SerializeToString() == before
