"""Building blocks for graph edits: constants, nodes, replacement of values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edge_vit.graph.constant import add_constant
from edge_vit.graph.walk import Array

_numbers = itertools.count()


def constant(graph: ir.Graph, array: Array, name: str = "") -> ir.Value:
    """Return a new initializer of `graph` that holds `array`."""
    return add_constant(graph, name or f"const_{next(_numbers)}", array)


class Builder:
    """Adds nodes in front of one node of a graph."""

    def __init__(self, graph: ir.Graph, before: ir.Node) -> None:
        self._graph = graph
        self._before = before

    def constant(self, array: Array) -> ir.Value:
        """Return a new initializer."""
        return constant(self._graph, array)

    def __call__(
        self,
        op_type: str,
        *inputs: ir.Value,
        attributes: Mapping[str, Any] | None = None,
        num_outputs: int = 1,
    ) -> Sequence[ir.Value]:
        """Add a node and return its outputs."""
        node = ir.node(op_type, inputs, attributes, num_outputs=num_outputs)
        for output in node.outputs:
            output.name = f"value_{next(_numbers)}"
        self._graph.insert_before(self._before, node)
        return node.outputs

    def one(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node of one output and return that output."""
        return self(op_type, *inputs, attributes=attributes)[0]


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`, as output of the graph as well."""
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.shape, new.type = new.shape or old.shape, new.type or old.type
