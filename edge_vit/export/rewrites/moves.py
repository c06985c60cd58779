"""Where elements come from, between a linear layer and an attention.

Positions of elements are sent through the moves themselves, so that no way of writing them has to
be known. What is more than a move, such as rotary positions or a norm of queries and keys, is a
stretch of the graph that stays as it is; it is enough to know the value that it starts from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph.exact import open_graph
from edge_vit.graph.walk import (
    Array,
    array_of,
    consumers,
    is_constant,
    is_movement,
    scaled_by,
)

Moves = list[tuple[ir.Node, int]]
"""Nodes that move elements, first to last, and which output of each is followed."""

_LINEAR = frozenset(
    {"Slice", "Split", "Reshape", "Transpose", "Gather", "Squeeze", "Unsqueeze", "Identity"}
    | {"Neg", "Concat", "Add", "Sub", "Mul", "Div"}
)


@dataclass(frozen=True)
class Stretch:
    """A part of the graph with one value to start from and one to end in.

    Attributes:
        source: the value that `start` is a mere rearrangement of.
        moves: from `source` to `start`.
        factor: product of the scale factors among the moves.
        start: the last value of which all else is made.
        nodes: what lies between `start` and the end; empty where `start` is the end.
    """

    source: ir.Value
    moves: Moves
    factor: float
    start: ir.Value
    nodes: frozenset[ir.Node]

    @property
    def is_linear(self) -> bool:
        """Whether a factor on `start` is the same factor on the end."""
        return all(map(_is_linear, self.nodes))

    def start_from(self, value: ir.Value) -> None:
        """Let the nodes read `value` in place of `start`."""
        for node in self.nodes:
            for index, read in enumerate(node.inputs):
                if read is self.start:
                    node.replace_input_with(index, value)


def trace_stretch(end: ir.Value, sources: Iterable[ir.Value]) -> Stretch | None:
    """Return the stretch that makes `end` of one of `sources`; None where more goes into it."""
    wanted, found, cone = frozenset(sources), set[ir.Value](), set[ir.Node]()
    stack = [end]
    while stack:
        value = stack.pop()
        if value in wanted:
            found.add(value)
            continue
        node = value.producer()
        if node is None:
            return None  # an input of the graph
        if node not in cone:
            cone.add(node)
            stack.extend(v for v in node.inputs if v is not None and not is_constant(v))
    if len(found) != 1:
        return None
    (source,) = found
    start, moves, factor = source, [], 1.0
    while start is not end:
        readers = [node for node in dict.fromkeys(consumers(start)) if node in cone]
        scaled = scaled_by(readers[0]) if len(readers) == 1 else None
        if len(readers) != 1 or not (scaled or is_movement(readers[0])):
            break
        (node,) = readers
        outputs = [v for v in node.outputs if v is end or any(r in cone for r in consumers(v))]
        if len(outputs) != 1:
            break
        if scaled:
            factor *= scaled[1]
        else:
            moves.append((node, node.outputs.index(outputs[0])))
        cone.discard(node)
        (start,) = outputs
    return Stretch(source, moves, factor, start, frozenset(cone))


def move(moves: Moves, shape: tuple[int, ...]) -> Array:
    """Return where the elements of an array of `shape` go: flat positions, moved by `moves`."""
    positions = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    if not moves:
        return positions
    nodes, constants, name = [], {}, "positions"
    for number, (node, output) in enumerate(moves):
        proto = ir.to_proto(node)
        proto.input[0] = name
        for index in range(len(proto.output)):
            proto.output[index] = f"moved{number}_{index}"
        name = proto.output[output]
        nodes.append(proto)
        for value in node.inputs[1:]:
            if value is not None:
                constants[value.name] = onnx.numpy_helper.from_array(array_of(value), value.name)
    source = onnx.helper.make_tensor_value_info("positions", onnx.TensorProto.INT64, shape)
    graph = onnx.helper.make_graph(
        nodes, "moves", [source], [onnx.ValueInfoProto(name=name)], list(constants.values())
    )
    opset = [onnx.helper.make_opsetid("", 19)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = open_graph(model.SerializeToString(), as_written=True)
    moved: Array = session.run([name], {"positions": positions})[0]
    return moved


def _is_linear(node: ir.Node) -> bool:
    constants = [value is not None and is_constant(value) for value in node.inputs]
    if node.op_type in ("Add", "Sub", "Concat"):
        return not any(constants)
    if node.op_type in ("Mul", "Div"):
        return constants[1] or (node.op_type == "Mul" and constants[0])
    return node.op_type in _LINEAR and all(constants[1:])
