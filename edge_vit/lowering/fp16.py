"""Writes FP16 into the graph: a strongly typed copy, float16 between the two boundary casts."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.graph.edit import add_constant, new_node
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.walk import array_of, consumers, data_input, is_constant

HALF_MAX = 65504.0
"""The largest float16."""

_OPSET = 19
_PREPROCESSING = frozenset({"Cast", "Sub", "Add", "Mul", "Div", "Transpose"})
_TYPED_BY_ATTRIBUTE = frozenset(
    {"ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"}
    | {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators whose output type is given by an attribute."""


def write_half(
    model: onnx.ModelProto, fp32_nodes: Mapping[str, str] | None = None, spill: Spill | None = None
) -> onnx.ModelProto:
    """Return a copy of `model` in float16, from behind the normalisation to the last output.

    Float32 inputs are cast first, where there are no pixels.

    Input and output keep their types; integers and INT8 stay; the scales of Q/DQ nodes become
    float16, which they were rounded to from the start. LayerNormalization is one operator, whose
    inner sums TensorRT and ONNX Runtime keep in float32.

    Nodes of `fp32_nodes` stay in float32, with casts at their borders. A quantizer takes the type
    of what it reads, a dequantizer that of what it feeds, so that products stay INT8. The weights
    of a large graph go to `spill`, where they stay.
    """
    half = ir.from_proto(model)
    graph = half.graph
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(half)
    floats: set[ir.Value | None] = {
        v for n in graph for v in n.outputs if v.dtype == ir.DataType.FLOAT
    }
    floats |= {value for value in graph.inputs if value.dtype == ir.DataType.FLOAT}
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = value.shape = None
    kept = _preprocessing(graph)
    wide = {*kept, *_find_wide(graph, fp32_nodes or {})}
    casts: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node not in wide:
            _halve(graph, node)
        for index, source in enumerate(tuple(node.inputs)):
            if source is None or source not in floats:
                continue
            is_wide = source.producer() in wide or source.is_graph_input()
            if is_wide != (node in wide):
                if source not in casts:
                    is_image = bool(kept) and source is kept[-1].outputs[0]
                    name = "embed" if is_image else source.name or ""
                    casts[source] = _cast(graph, source, name, is_half=node not in wide)
                node.replace_input_with(index, casts[source])
    for index, output in enumerate(tuple(graph.outputs)):
        if output.producer() not in wide:
            _cast_output(graph, index, output)
    passes.RemoveUnusedNodesPass()(half)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(half)
    return to_proto(half, spill)


def _cast(graph: ir.Graph, value: ir.Value, place: str, *, is_half: bool) -> ir.Value:
    producer = value.producer()
    dtype = ir.DataType.FLOAT16 if is_half else ir.DataType.FLOAT
    name = f"{place}/{'to_half' if is_half else 'to_float'}"
    cast = new_node("Cast", name, [value], {"to": int(dtype)})
    if producer is None:  # an input
        graph.insert_before(graph[0], cast)
    else:
        graph.insert_after(producer, cast)
    return cast.outputs[0]


def _cast_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """Let the graph's output stay float32 under its own name."""
    name, shape = output.name, output.shape
    output.name, output.type, output.shape = f"{name}/half", None, None
    result = _cast(graph, output, "head", is_half=False)
    cast = result.producer()
    assert cast is not None
    cast.name = "head/to_float" if index == 0 else f"head/to_float_{name}"
    result.name, result.shape, result.type = name, shape, ir.TensorType(ir.DataType.FLOAT)
    graph.outputs[index] = result


def _find_wide(graph: ir.Graph, fp32_nodes: Mapping[str, str]) -> set[ir.Node]:
    """Return the nodes that compute in float32.

    Those named, those of operators that know no float16, and the Q/DQ nodes beside them.
    """
    wide = {node for node in graph if node.name in fp32_nodes or _must_stay_float(node)}
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
    """Return the nodes that turn uint8 pixels into normalised ones, first to last, if there are."""
    if graph.inputs[0].dtype != ir.DataType.UINT8:
        return []
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
        if _stays_float(node, index):
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


Flags = tuple[bool, ...]
"""For each formal input or output of an operator; the last one may repeat."""


@functools.cache
def _half_types(op_type: str) -> tuple[Flags, Flags, Flags]:
    """Return which inputs can be float16, which have their type to themselves, which outputs can.

    By ONNX's own schemas; what no schema knows can be anything.
    """
    try:
        schema = onnx.defs.get_schema(op_type, _OPSET, "")
    except onnx.defs.SchemaError:
        return (), (), ()
    formals = (*schema.inputs, *schema.outputs)
    names = [formal.type_str for formal in formals]
    can = [
        "tensor(float16)" in formal.types or "tensor(float)" not in formal.types
        for formal in formals
    ]
    alone = tuple(names.count(formal.type_str) == 1 for formal in schema.inputs)
    count = len(schema.inputs)
    return tuple(can[:count]), alone, tuple(can[count:])


def _must_stay_float(node: ir.Node) -> bool:
    if node.domain or node.op_type in _TYPED_BY_ATTRIBUTE:
        return not node.domain
    inputs, _, outputs = _half_types(node.op_type)
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in (ir.DataType.FLOAT, None):
            continue
        if not _at(inputs, index) and not _stays_float(node, index):
            return True
    used = [v.uses() or v.is_graph_output() for v in node.outputs]
    return any(is_used and not _at(outputs, i) for i, is_used in enumerate(used))


def _stays_float(node: ir.Node, index: int) -> bool:
    """Return whether the constant input `index` is float32 in a float16 operator too.

    So it is with the scales of Resize.
    """
    if node.domain or not is_constant(node.inputs[index]):
        return False
    inputs, alone, _ = _half_types(node.op_type)
    return not _at(inputs, index) and _at(alone, index)


def _at(flags: Flags, index: int) -> bool:
    return flags[min(index, len(flags) - 1)] if flags else True
