"""Writes FP16 into the graph: a strongly typed copy, float16 between the two boundary casts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.graph.constant import add_constant, new_node
from edge_vit.graph.walk import array_of, consumers, data_input, is_constant
from edge_vit.lowering.fp16_types import must_stay_float, stays_float

_PREPROCESSING = frozenset({"Cast", "Sub", "Add", "Mul", "Div", "Transpose"})
HALF_MAX = 65504.0
"""The largest float16."""


def write_half(
    model: onnx.ModelProto, fp32_nodes: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Return a copy of `model` in float16, from behind the normalisation to the last output.

    Input and output keep their types; integers and INT8 stay; the scales of Q/DQ nodes become
    float16, which they were rounded to from the start. LayerNormalization is one operator, whose
    inner sums TensorRT and ONNX Runtime keep in float32.

    Nodes of `fp32_nodes` stay in float32, with casts at their borders. A quantizer takes the type
    of what it reads, a dequantizer that of what it feeds, so that products stay INT8.

    Raises:
        SpecError: a weight is larger than float16 can hold.
    """
    half = ir.from_proto(model)
    graph = half.graph
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(half)
    floats: set[ir.Value | None] = {
        v for n in graph for v in n.outputs if v.dtype == ir.DataType.FLOAT
    }
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    kept = _preprocessing(graph)
    wide = {*kept, *_find_wide(graph, fp32_nodes or {})}
    casts = _Casts(graph, {kept[-1].outputs[0]: "embed"})
    for node in list(graph):
        if node not in wide:
            _halve(graph, node)
        for index, source in enumerate(tuple(node.inputs)):
            if source and source in floats and (source.producer() in wide) != (node in wide):
                node.replace_input_with(index, casts.of(source, is_half=node not in wide))
    for index, output in enumerate(tuple(graph.outputs)):
        if output.producer() not in wide:
            _cast_output(graph, index, output)
    passes.RemoveUnusedNodesPass()(half)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(half)
    return ir.to_proto(half)


class _Casts:
    """Casts between float16 and float32, one for each value that needs one."""

    def __init__(self, graph: ir.Graph, names: Mapping[ir.Value, str]) -> None:
        self._graph, self._names = graph, names
        self._made: dict[ir.Value, ir.Value] = {}

    def of(self, value: ir.Value, *, is_half: bool) -> ir.Value:
        """Return `value` in the other type."""
        if value not in self._made:
            producer = value.producer()
            assert producer is not None
            place = self._names.get(value, value.name)
            name = f"{place}/{'to_half' if is_half else 'to_float'}"
            dtype = ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT
            cast = new_node("Cast", name, [value], {"to": int(dtype)})
            self._graph.insert_after(producer, cast)
            self._made[value] = cast.outputs[0]
        return self._made[value]


def _find_wide(graph: ir.Graph, fp32_nodes: Mapping[str, str]) -> set[ir.Node]:
    """Return the nodes that compute in float32.

    Those named, those of operators that know no float16, and the Q/DQ nodes beside them.
    """
    wide = {node for node in graph if node.name in fp32_nodes or must_stay_float(node)}
    for node in graph:
        if _leads_to_int8(node) and data_input(node).producer() in wide:
            wide.add(node)
        if node.op_type == "DequantizeLinear" and wide.issuperset(consumers(node.outputs[0])):
            wide.add(node)
    return wide


def _leads_to_int8(node: ir.Node) -> bool:
    """Return whether `node` quantizes, or subtracts a constant from what is then quantized."""
    below = list(consumers(node.outputs[0])) if node.op_type == "Sub" else [node]
    return bool(below) and all(reader.op_type == "QuantizeLinear" for reader in below)


def _preprocessing(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes that turn uint8 pixels into normalised ones, first to last."""
    first = [n for n in consumers(graph.inputs[0]) if n.op_type in _PREPROCESSING]
    nodes = first[:1] or [next(consumers(graph.inputs[0]))]
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
        if stays_float(node, index):
            continue
        name = f"{value.name}/half"
        if name not in graph.initializers:
            array = array_of(value)
            if node.op_type == "Add":  # an attention mask: as low as float16 goes is low enough
                array = np.where(array < -HALF_MAX, np.float32(-HALF_MAX), array)
            if np.abs(array).max(initial=0.0) > HALF_MAX:
                raise SpecError(
                    f"{value.name} holds {np.abs(array).max():.3g}, float16 ends at "
                    f"{HALF_MAX:.0f}: this model cannot run in FP16"
                )
            add_constant(graph, name, array.astype(np.float16))
        node.replace_input_with(index, graph.initializers[name])
    if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)


def _cast_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """Let the graph's output stay float32 under its own name."""
    producer = output.producer()
    assert producer is not None
    name, shape = output.name, output.shape
    output.name, output.type, output.shape = f"{name}/half", None, None
    place = "head/to_float" if index == 0 else f"head/to_float_{name}"
    cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)}, name=place)
    graph.insert_after(producer, cast)
    result = cast.outputs[0]
    result.name, result.shape = name, shape
    result.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[index] = result
