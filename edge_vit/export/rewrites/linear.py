"""Brings linear layers into one form: MatMul with a (K, N) weight, Add with a (1, 1, N) bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, constant, replace_value
from edge_vit.graph.walk import (
    Linear,
    array_of,
    consumers,
    data_input,
    find_linears,
    is_constant,
)


def split_gemms(graph: ir.Graph) -> None:
    """Turn each Gemm with a constant weight into MatMul and Add."""
    for node in list(graph):
        if node.op_type != "Gemm" or _int_of(node, "transA"):
            continue
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if weight is None or not is_constant(weight) or (bias and not is_constant(bias)):
            continue
        matrix = array_of(weight)
        if _int_of(node, "transB"):
            matrix = matrix.T
        matrix = matrix * matrix.dtype.type(node.attributes.get_float("alpha", 1.0))
        build = Builder(graph, node)
        output = build.one("MatMul", data_input(node), build.constant(matrix))
        output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
        if bias is not None:
            vector = array_of(bias).reshape(-1)
            vector = vector * vector.dtype.type(node.attributes.get_float("beta", 1.0))
            output = build.one("Add", output, build.constant(vector))
        replace_value(node.outputs[0], output)
        graph.remove(node, safe=True)


def unflatten_linears(graph: ir.Graph) -> None:
    """Let linear layers work on (batch, tokens, width) where an exporter flattened it to rows.

    ``Reshape -> linear -> Reshape`` becomes ``linear -> Reshape``; an idle Reshape goes, too.
    """
    for linear in find_linears(graph).values():
        above = linear.input.producer()
        below = list(consumers(linear.output))
        if above is None or above.op_type != "Reshape":
            continue
        if not all(_is_free_reshape(node) for node in below):
            continue
        source = data_input(above)
        width, _ = linear.weight.shape
        if source.shape is None or len(source.shape) < 3 or source.shape[-1] != width:
            continue
        output = rebuild(graph, linear, source)
        for node in below:
            shape = node.outputs[0].shape
            is_idle = shape is not None and list(shape)[:-1] == list(source.shape)[:-1]
            if is_idle:
                replace_value(node.outputs[0], output)
            else:
                node.replace_input_with(0, output)


def _is_free_reshape(node: ir.Node) -> bool:
    """Say whether `node` is a Reshape to a constant target that copies no dimension (a 0 would)."""
    target = node.inputs[1] if node.op_type == "Reshape" else None
    return target is not None and is_constant(target) and bool(array_of(target).all())


def shape_biases(graph: ir.Graph) -> None:
    """Shape the bias of each linear layer on tokens (1, 1, N).

    ONNX Runtime turns a MatMul and an Add of a (N,) bias into a float Gemm, also where INT8 was
    meant.
    """
    for linear in find_linears(graph).values():
        shape = linear.output.shape
        if linear.add is None or shape is None or len(shape) != 3:
            continue
        index = next(i for i, v in enumerate(linear.add.inputs) if v is not None and is_constant(v))
        linear.add.replace_input_with(index, constant(graph, linear.bias.reshape(1, 1, -1)))


def merge_linears(graph: ir.Graph, linears: Sequence[Linear]) -> bool:
    """Turn linear layers that read the same value into one, followed by a Split.

    Returns:
        Whether they could be merged.
    """
    if len(linears) < 2 or len({linear.input for linear in linears}) != 1:
        return False
    first = min((linear.matmul for linear in linears), key=list(graph).index)
    build = Builder(graph, first)
    weight = np.concatenate([linear.weight for linear in linears], axis=1)
    bias = np.concatenate([linear.bias for linear in linears])
    output = build.one("MatMul", linears[0].input, build.constant(weight))
    if bias.any():
        output = build.one("Add", output, build.constant(bias.reshape(1, 1, -1)))
    sizes = np.array([linear.weight.shape[1] for linear in linears], np.int64)
    parts = build(
        "Split", output, build.constant(sizes), attributes={"axis": -1}, num_outputs=len(sizes)
    )
    for linear, part in zip(linears, parts, strict=True):
        replace_value(linear.output, part)
    return True


def _int_of(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int() if name in node.attributes else 0


def rebuild(graph: ir.Graph, linear: Linear, source: ir.Value) -> ir.Value:
    """Add a copy of `linear` that reads `source`, and return its output."""
    build = Builder(graph, linear.add or linear.matmul)
    shape = None if source.shape is None else ir.Shape([*source.shape[:-1], linear.weight.shape[1]])
    output = build.one("MatMul", source, build.constant(linear.weight))
    output.shape, output.type = shape, source.type
    if linear.add is not None:
        output = build.one("Add", output, build.constant(linear.bias))
        output.shape, output.type = shape, source.type
    return output
