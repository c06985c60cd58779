"""New constants and nodes for a graph, and the replacement of values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edge_vit.graph.walk import Array

_numbers = itertools.count()


def add_constant(graph: ir.Graph, name: str, array: Array | np.generic) -> ir.Value:
    """Return a new initializer of `graph` that holds `array`; an empty `name` makes a new one."""
    name = name or f"const_{next(_numbers)}"
    tensor = ir.Tensor(np.asarray(array, order="C"), name=name)
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(np.shape(array))
    value = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def new_node(
    op_type: str,
    name: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
    like: ir.Value | None = None,
) -> ir.Node:
    """Return a node called `name`, in no graph yet; its one output, ``name:0``, is typed `like`."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    node.outputs[0].name = f"{name}:0"
    if like is not None:
        node.outputs[0].type, node.outputs[0].shape = like.type, like.shape
    return node


def replace_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Let `node` read `value` as its input `index`; a constant without readers is removed."""
    old = node.inputs[index]
    node.replace_input_with(index, value)
    if old is not None and old.is_initializer() and not old.uses() and old.graph is not None:
        del old.graph.initializers[old.name or ""]


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`, as output of the graph as well."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.shape, new.type = new.shape or old.shape, new.type or old.type


def add_behind(graph: ir.Graph, node: ir.Node, other: ir.Value, name: str) -> None:
    """Add `other` to what `node` makes, for all that reads it, by a node called `name`."""
    value = node.outputs[0]
    add = new_node("Add", name, [value, other])
    replace_value(value, add.outputs[0])
    add.replace_input_with(0, value)
    if add.outputs[0].is_graph_output():
        add.outputs[0].name, value.name = value.name, f"{name}:0"
    graph.insert_after(node, add)


class Builder:
    """Adds nodes in front of one node of a graph."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph, self._before = graph, before

    def constant(self, array: Array) -> ir.Value:
        """Return a new initializer."""
        return add_constant(self._graph, "", array)

    def number(self, value: float) -> ir.Value:
        """Return a new float32 scalar."""
        return self.constant(np.asarray(value, np.float32))

    def ints(self, *values: int) -> ir.Value:
        """Return a new int64 vector."""
        return self.constant(np.array(values, np.int64))

    def one(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node of one output and return that output."""
        return self._add(ir.node(op_type, inputs, attributes))[0]

    def split(self, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Return the parts of `value` along its last axis, of so many elements each."""
        inputs = (value, self.ints(*sizes))
        return self._add(ir.node("Split", inputs, {"axis": -1}, num_outputs=len(sizes)))

    def linear(self, value: ir.Value, weight: Array, bias: Array, *, is_flat: bool) -> ir.Value:
        """Return ``value @ weight + bias``; the bias is (1, 1, N), or (N,) where `value` is rows.

        A bias of zeros is left out.
        """
        product = self.one("MatMul", value, self.constant(weight))
        shaped = bias if is_flat else bias.reshape(1, 1, -1)
        return self.one("Add", product, self.constant(shaped)) if bias.any() else product

    def _add(self, node: ir.Node) -> Sequence[ir.Value]:
        for output in node.outputs:
            output.name = f"value_{next(_numbers)}"
        self._graph.insert_before(self._before, node)
        return node.outputs
