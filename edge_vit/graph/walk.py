"""Small questions to ask of an ONNX graph: is it constant, is it a linear layer, where from?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]

MOVEMENT = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather"}
    | {"Identity"}
)
"""Operators that only move elements of their first input, given that the others are constant."""


@dataclass(frozen=True)
class Linear:
    """One linear layer: ``output = input @ weight + bias``.

    Attributes:
        matmul: the MatMul node.
        add: the node that adds the bias, or None.
    """

    matmul: ir.Node
    add: ir.Node | None

    @property
    def input(self) -> ir.Value:
        """The activation that goes in, (..., K)."""
        return data_input(self.matmul)

    @property
    def output(self) -> ir.Value:
        """What comes out, bias included, (..., N)."""
        return (self.add or self.matmul).outputs[0]

    @property
    def weight(self) -> Array:
        """(K, N)."""
        value = self.matmul.inputs[1]
        assert value is not None
        return array_of(value)

    @property
    def bias(self) -> Array:
        """(N,), zeros where the layer has none."""
        if self.add is None:
            return np.zeros(self.weight.shape[1], self.weight.dtype)
        bias = next(value for value in self.add.inputs if value is not None and is_constant(value))
        return np.broadcast_to(array_of(bias).reshape(-1), self.weight.shape[1:])


def find_linear(node: ir.Node) -> Linear | None:
    """Return the linear layer whose MatMul is `node`, or None where it is none."""
    if node.op_type != "MatMul":
        return None
    weight = node.inputs[1]
    if weight is None or not is_constant(weight) or is_constant(data_input(node)):
        return None
    shape = array_shape(weight)
    if len(shape) != 2:
        return None
    return Linear(node, find_bias(node, shape[1]))


def find_bias(matmul: ir.Node, width: int) -> ir.Node | None:
    """Return the Add of a constant vector, (`width`,) or one number, that alone reads `matmul`."""
    uses = tuple(matmul.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or matmul.outputs[0].is_graph_output():
        return None
    bias = uses[0].node.inputs[1 - uses[0].idx]
    if bias is None or not is_constant(bias):
        return None
    dims, shape = array_shape(bias), matmul.outputs[0].shape
    if shape is not None and len(dims) > len(shape):
        return None  # the sum has more dimensions than the product
    is_vector = not dims or all(d == 1 for d in dims[:-1])
    return uses[0].node if is_vector and (dims[-1:] or (1,))[0] in (1, width) else None


def find_linears(graph: ir.Graph) -> dict[ir.Node, Linear]:
    """Return every linear layer of `graph` by its MatMul node, in topological order."""
    found = ((node, find_linear(node)) for node in graph)
    return {node: linear for node, linear in found if linear is not None}


def is_constant(value: ir.Value) -> bool:
    """Say whether `value` is an initializer."""
    return value.const_value is not None


def array_of(value: ir.Value) -> Array:
    """Return the numbers of a constant `value`."""
    assert value.const_value is not None, f"{value.name} is not constant"
    return value.const_value.numpy()


def array_shape(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of a constant `value` without reading its numbers."""
    assert value.const_value is not None, f"{value.name} is not constant"
    return tuple(dim for dim in value.const_value.shape if isinstance(dim, int))


def scalar_of(value: ir.Value | None) -> float | None:
    """Return the number that a constant `value` of one element holds, or None."""
    if value is None or not is_constant(value):
        return None
    if int(np.prod(array_shape(value), dtype=np.int64)) != 1:
        return None
    return float(array_of(value).reshape(()))


def data_input(node: ir.Node) -> ir.Value:
    """Return the first input of `node`."""
    value = node.inputs[0]
    assert value is not None, f"{node.name} has no input"
    return value


def reduced_axes(node: ir.Node) -> list[int] | None:
    """Return the axes that `node` reduces and keeps, as they are written; None if it is not known.

    They are an attribute, or a constant second input from opset 13 or 18 on.
    """
    if not node.attributes.get_int("keepdims", 1):
        return None
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", []))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None or not is_constant(given):
        return None
    return [int(axis) for axis in array_of(given).reshape(-1)]


def is_movement(node: ir.Node) -> bool:
    """Say whether `node` does nothing but move the elements of its first input."""
    if node.op_type not in MOVEMENT or is_constant(data_input(node)):
        return False
    return all(value is None or is_constant(value) for value in node.inputs[1:])


def has_subgraph(node: ir.Node) -> bool:
    """Say whether `node` holds a graph, as `If` and `Loop` do, which may read any outer value."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attributes.values())


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the input of the binary `node` that is not `value`."""
    first, second = node.inputs
    return second if first is value else first


def scaled_by(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return (x, factor) where `node` is x times or divided by one constant number.

    None where the number is an array of more dimensions than x, which the result then has too.
    """
    if node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    assert left is not None
    assert right is not None
    if adds_dimensions(left, right):
        return None
    factor = scalar_of(right)
    if factor is not None:
        return left, factor if node.op_type == "Mul" else 1.0 / factor
    factor = scalar_of(left)
    if factor is not None and node.op_type == "Mul":
        return right, factor
    return None


def adds_dimensions(*operands: ir.Value | None) -> bool:
    """Say whether one of two operands is a constant of more dimensions than the other."""
    known = [value for value in operands if value is not None and value.shape is not None]
    ranks = {is_constant(value): len(value.shape or ()) for value in known}
    return len(ranks) == 2 and ranks[True] > ranks[False]


def is_over_last_axis(node: ir.Node) -> bool:
    """Say whether `node`, such as a Softmax, works along the last axis."""
    axis, shape = node.attributes.get_int("axis", -1), data_input(node).shape
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def consumers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield each node that reads `value`."""
    for use in value.uses():
        yield use.node


def movement_root(value: ir.Value) -> ir.Value:
    """Return the value that `value` is a mere rearrangement of."""
    node = value.producer()
    while node is not None and is_movement(node):
        value = data_input(node)
        node = value.producer()
    return value
