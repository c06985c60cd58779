"""Questions to ask of an ONNX graph: what is constant, what makes and reads a value."""

from __future__ import annotations

import mmap
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
    """One linear layer: ``output = input @ weight + bias``."""

    matmul: ir.Node
    add: ir.Node | None  # that adds the bias

    @property
    def input(self) -> ir.Value:
        """The activation that goes in, (..., K)."""
        return data_input(self.matmul)

    @property
    def output(self) -> ir.Value:
        """What comes out, bias included, (..., N)."""
        return (self.add or self.matmul).outputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(K, N), without reading the weight."""
        return array_shape(self.matmul.inputs[1])

    @property
    def weight(self) -> Array:
        """(K, N)."""
        return array_of(self.matmul.inputs[1])

    def release_weight(self) -> None:
        """Let the system take back the memory of the weight, where it is mapped from a file."""
        raw = getattr(data_input(self.matmul, 1).const_value, "raw", None)
        if isinstance(raw, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            raw.madvise(mmap.MADV_DONTNEED)

    @property
    def bias(self) -> Array:
        """(N,), zeros where the layer has none."""
        if self.add is None:
            return np.zeros(self.shape[1], self.weight.dtype)
        bias = array_of(self.add.inputs[constant_index(self.add)])
        return np.broadcast_to(bias.reshape(-1), self.shape[1:])


def find_linear(node: ir.Node) -> Linear | None:
    """Return the linear layer whose MatMul is `node`, or None where it is none."""
    if node.op_type != "MatMul" or is_constant(data_input(node)):
        return None
    weight = data_input(node, 1)
    if not is_constant(weight) or len(array_shape(weight)) != 2:
        return None
    return Linear(node, find_bias(node, array_shape(weight)[1]))


def find_bias(matmul: ir.Node, width: int) -> ir.Node | None:
    """Return the Add of a constant vector, (`width`,) or one number, that alone reads `matmul`."""
    product = matmul.outputs[0]
    add = sole_reader(product, "Add")
    bias = other_operand(add, product) if add is not None else None
    if bias is None or not is_constant(bias):
        return None
    dims = array_shape(bias)
    if product.shape is not None and len(dims) > len(product.shape):
        return None  # the sum has more dimensions than the product
    is_vector = all(dim == 1 for dim in dims[:-1])
    return add if is_vector and (dims[-1:] or (1,))[0] in (1, width) else None


def find_linears(graph: ir.Graph) -> dict[ir.Node, Linear]:
    """Return every linear layer of `graph` by its MatMul node, in topological order."""
    found = ((node, find_linear(node)) for node in graph)
    return {node: linear for node, linear in found if linear is not None}


def is_constant(value: ir.Value | None) -> bool:
    """Return whether `value` is an initializer."""
    return value is not None and value.const_value is not None


def array_of(value: ir.Value | None) -> Array:
    """Return the numbers of a constant `value`."""
    assert value is not None
    assert value.const_value is not None, f"{value.name} is not constant"
    return value.const_value.numpy()


def array_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Return the shape of a constant `value` without reading its numbers."""
    assert value is not None
    assert value.const_value is not None, f"{value.name} is not constant"
    return tuple(dim for dim in value.const_value.shape if isinstance(dim, int))


def scalar_of(value: ir.Value | None) -> float | None:
    """Return the number that a constant `value` of one element holds, or None."""
    if not is_constant(value) or int(np.prod(array_shape(value), dtype=np.int64)) != 1:
        return None
    return float(array_of(value).reshape(()))


def dims_of(value: ir.Value) -> tuple[Any, ...]:
    """Return the dimensions of `value`, numbers where they are known; empty where no rank is."""
    return tuple(value.shape or ())


def data_input(node: ir.Node, index: int = 0) -> ir.Value:
    """Return an input of `node` that is given; the first one holds its data."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} has no input {index}"
    return value


def operands(node: ir.Node) -> list[ir.Value]:
    """Return the inputs of `node` that are given and computed."""
    return [value for value in node.inputs if value is not None and not is_constant(value)]


def constant_index(node: ir.Node) -> int:
    """Return which input of `node` is its first constant, -1 where none is."""
    return next((i for i, value in enumerate(node.inputs) if is_constant(value)), -1)


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the node that makes `value`, if it is one of `op_types`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def is_read_once(value: ir.Value) -> bool:
    """Return whether one input of one node reads `value`, and nothing else does."""
    return len(tuple(value.uses())) == 1 and not value.is_graph_output()


def sole_reader(value: ir.Value, *op_types: str) -> ir.Node | None:
    """Return the one node that reads `value`, if it is one of `op_types`; any without them."""
    node = next(consumers(value)) if is_read_once(value) else None
    return node if node is not None and (not op_types or node.op_type in op_types) else None


def reduced_axes(node: ir.Node, *, is_kept: bool = True) -> list[int] | None:
    """Return the axes that `node` reduces, as they are written; None where they are not known.

    They are an attribute, or a constant second input from opset 13 or 18 on. With `is_kept`, a node
    that drops the dimensions is not known either.
    """
    if is_kept and not node.attributes.get_int("keepdims", 1):
        return None
    if "axes" in node.attributes:
        return list(node.attributes.get_ints("axes", []))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    return [int(axis) for axis in array_of(given).reshape(-1)] if is_constant(given) else None


def reduces_last_axis(node: ir.Node) -> bool:
    """Return whether `node` reduces the last axis alone, and keeps it."""
    return reduced_axes(node) in ([-1], [len(dims_of(data_input(node))) - 1])


def permutation(transpose: ir.Node) -> tuple[int, ...]:
    """Return the order of axes that a Transpose makes."""
    rank = len(dims_of(data_input(transpose)))
    return tuple(transpose.attributes.get_ints("perm", tuple(range(rank))[::-1]))


def is_movement(node: ir.Node) -> bool:
    """Return whether `node` does nothing but move the elements of its first input."""
    if node.op_type not in MOVEMENT or is_constant(data_input(node)):
        return False
    return all(value is None or is_constant(value) for value in node.inputs[1:])


def has_subgraph(node: ir.Node) -> bool:
    """Return whether `node` holds a graph, as `If` does, which may read any outer value."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attribute.type in graphs for attribute in node.attributes.values())


def other_operand(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """Return the input of the binary `node` that is not `value`."""
    first, second = node.inputs
    return second if first is value else first


def scaled_by(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Return (x, factor) where `node` is x times or divided by one constant number.

    None where the number is an array of more dimensions than x, which the result then has too.
    """
    if node is None or node.op_type not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    left, right = data_input(node), data_input(node, 1)
    if adds_dimensions(left, right):
        return None
    factor = scalar_of(right)
    if factor is not None:
        return left, factor if node.op_type == "Mul" else 1.0 / factor
    factor = scalar_of(left) if node.op_type == "Mul" else None
    return None if factor is None else (right, factor)


def adds_dimensions(*pair: ir.Value | None) -> bool:
    """Return whether one of two operands is a constant of more dimensions than the other."""
    known = [value for value in pair if value is not None and value.shape is not None]
    ranks = {is_constant(value): len(value.shape or ()) for value in known}
    return len(ranks) == 2 and ranks[True] > ranks[False]


def is_over_last_axis(node: ir.Node) -> bool:
    """Return whether `node`, such as a Softmax, works along the last axis."""
    return node.attributes.get_int("axis", -1) in (-1, len(dims_of(data_input(node))) - 1)


def consumers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the node of each input that reads `value`."""
    return (use.node for use in value.uses())


def movement_chain(value: ir.Value) -> list[ir.Value]:
    """Return the values on the way from what `value` is a mere rearrangement of to `value`."""
    chain = [value]
    while (node := chain[-1].producer()) is not None and is_movement(node):
        chain.append(data_input(node))
    return chain[::-1]


def movement_root(value: ir.Value) -> ir.Value:
    """Return the value that `value` is a mere rearrangement of."""
    return movement_chain(value)[0]
