"""A float16 graph as a GPU computes it, for a runtime that would keep float32 between its nodes."""

from __future__ import annotations

import onnx

_HALF = onnx.TensorProto.FLOAT16
_FLOAT = onnx.TensorProto.FLOAT


def round_as_half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a float32 graph that rounds to float16 wherever `model` is float16.

    Every node computes in float32, as tensor cores accumulate, and its output is rounded.

    Args:
        model: a graph in float16, or partly; its inputs and outputs keep their types.

    Returns:
        The graph, and by the name of each value that is rounded the node that makes it.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    emulated = onnx.ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    del graph.node[:]
    del graph.value_info[:]
    widened = {}  # constants stay as small as they are
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            widened[tensor.name] = f"{tensor.name}/widened"
            _add_cast(graph, tensor.name, widened[tensor.name], _FLOAT)
    rounded: dict[str, str] = {}
    for node in model.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [widened.get(name, name) for name in node.input]
        for attribute in copy.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FLOAT
        for index, name in enumerate(node.output):
            if types.get(name) == _HALF:
                copy.output[index] = f"{name}/exact"
                _add_cast(graph, f"{name}/exact", f"{name}/rounded", _HALF)
                _add_cast(graph, f"{name}/rounded", name, _FLOAT)
                rounded[name] = node.name
    return emulated, rounded


def _add_cast(graph: onnx.GraphProto, source: str, target: str, kind: int) -> None:
    cast = graph.node.add(op_type="Cast", input=[source], output=[target])
    cast.attribute.append(onnx.helper.make_attribute("to", kind))
