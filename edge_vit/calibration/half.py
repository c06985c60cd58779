"""Writes FP16 into the graph: a strongly typed copy, float16 between the two boundary casts."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.graph.constant import add_constant
from edge_vit.graph.walk import array_of, consumers, is_constant

_PREPROCESSING = frozenset({"Cast", "Sub", "Add", "Mul", "Div", "Transpose"})
_HALF_MAX = 65504.0  # largest float16


def write_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in float16, from behind the normalisation to the last output.

    Input and output keep their types; integers and INT8 stay; the scales of Q/DQ nodes become
    float16, which they were rounded to from the start. LayerNormalization is one operator, whose
    inner sums TensorRT and ONNX Runtime keep in float32.

    Raises:
        SpecError: a weight is larger than float16 can hold.
    """
    half = ir.from_proto(model)
    graph = half.graph
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    kept = _preprocessing(graph)
    for node in graph:
        if node not in kept:
            _halve(graph, node)
    _cast(graph, kept[-1].outputs[0], ir.DataType.FLOAT16, "embed/to_half")
    for index, output in enumerate(graph.outputs):
        _cast_output(graph, index, output)
    passes.RemoveUnusedNodesPass()(half)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(half)
    return ir.to_proto(half)


def _preprocessing(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes that turn uint8 pixels into normalised ones, first to last."""
    nodes = [next(consumers(graph.inputs[0]))]
    while True:
        below = [n for n in consumers(nodes[-1].outputs[0]) if n.op_type in _PREPROCESSING]
        if not below:
            return nodes
        nodes.append(below[0])


def _halve(graph: ir.Graph, node: ir.Node) -> None:
    """Let the constants that `node` reads, and what it casts to, be float16."""
    for index, value in enumerate(node.inputs):
        if value is None or not is_constant(value) or value.dtype != ir.DataType.FLOAT:
            continue
        name = f"{value.name}/half"
        if name not in graph.initializers:
            array = array_of(value)
            if node.op_type == "Add":  # an attention mask: as low as float16 goes is low enough
                array = np.where(array < -_HALF_MAX, np.float32(-_HALF_MAX), array)
            if np.abs(array).max(initial=0.0) > _HALF_MAX:
                raise SpecError(
                    f"{value.name} holds {np.abs(array).max():.3g}, float16 ends at "
                    f"{_HALF_MAX:.0f}: this model cannot run in FP16"
                )
            add_constant(graph, name, array.astype(np.float16))
        node.replace_input_with(index, graph.initializers[name])
    if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> None:
    """Put a Cast between `value` and all that reads it."""
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=name)
    cast.outputs[0].name = f"{name}:0"
    producer = value.producer()
    assert producer is not None
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_after(producer, cast)


def _cast_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """Let the graph's output stay float32 under its own name."""
    producer = output.producer()
    assert producer is not None
    name, shape = output.name, output.shape
    output.name, output.type, output.shape = f"{name}/half", None, None
    cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name="head/to_float")
    graph.insert_after(producer, cast)
    result = cast.outputs[0]
    result.name, result.shape = name, shape
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[index] = result
