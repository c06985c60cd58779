"""New constants and nodes for a graph, and the removal of what they replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edge_vit.graph.walk import Array


def add_constant(graph: ir.Graph, name: str, array: Array | np.generic) -> ir.Value:
    """Return a new initializer of `graph` called `name` that holds `array`."""
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(np.shape(array)),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def new_node(
    op_type: str,
    name: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    domain: str = "",
) -> ir.Node:
    """Return a node called `name` whose one output is called ``name:0``; it is in no graph yet."""
    node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
    node.outputs[0].name = f"{name}:0"
    return node


def replace_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Let `node` read `value` as its input `index`; a constant that nobody reads then goes."""
    old = node.inputs[index]
    node.replace_input_with(index, value)
    if old is not None and old.is_initializer() and not old.uses() and old.graph is not None:
        del old.graph.initializers[old.name or ""]
