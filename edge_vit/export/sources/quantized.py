"""Graphs that are quantized already, of which no fp32 reference can be made."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from edge_vit.errors import SpecError

_OPERATOR = re.compile(
    r"[Qq]uantize|Integer|QLinear|NBits|Bnb4|^Q(Attention|Gemm|MoE|Embed|Ordered)"
)
"""In the name of each operator that makes, takes or multiplies integers for real numbers."""

_NARROW = {
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "INT8",
    TensorProto.INT4: "INT4",
    TensorProto.UINT4: "INT4",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT8E5M2: "FP8",
    TensorProto.FLOAT4E2M1: "FP4",
}


def refuse_quantized(model: ModelProto, address: str) -> None:
    """Refuse a graph whose weights or activations are rounded to 8 or 4 bits already.

    Raises:
        SpecError: it is; the message names the first node or weight.
    """
    nodes = [node for node in _nodes(model) if _OPERATOR.search(node.op_type)]
    weights = [tensor for tensor in model.graph.initializer if _is_quantized(tensor)]
    if not nodes and not weights:
        return
    kind = next((_NARROW[tensor.data_type] for tensor in weights), "INT8")
    if nodes:
        first = nodes[0]
        where = f"{first.op_type} at node {first.name or first.output[0]!r}"
        count = len(nodes)
    else:
        where, count = f"weight {weights[0].name!r}", len(weights)
    more = f" and {count - 1} more" if count > 1 else ""
    raise SpecError(
        f"{address} is {kind} already ({where}{more}). Give the float file that it was made of: "
        "edge-vit quantizes it, and compares with it"
    )


def _is_quantized(tensor: TensorProto) -> bool:
    """Say whether a weight holds rounded numbers; zeros and ones are a mask."""
    if tensor.data_type not in _NARROW or len(tensor.dims) < 2:
        return False
    if tensor.data_type != TensorProto.UINT8:
        return True
    return bool(np.unique(numpy_helper.to_array(tensor)).size > 2)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    yield from _nodes_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _with_inner(node)


def _nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield from _with_inner(node)


def _with_inner(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _nodes_of(graph)
