"""Puts a new constant into a graph."""

from __future__ import annotations

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
