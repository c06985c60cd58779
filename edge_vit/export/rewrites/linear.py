"""Brings linear layers into one form: MatMul with a (K, N) weight, Add with a (1, 1, N) bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.edit import Builder, add_constant, replace_value
from edge_vit.graph.stream_steps import keeps_last_axis
from edge_vit.graph.walk import Linear

_ROWWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Erf", "Tanh", "Sigmoid", "Relu", "Cast"}
    | {"Identity", "LayerNormalization"}
)


def split_gemms(graph: ir.Graph) -> None:
    """Turn each Gemm with constant weight and C into MatMul and Add.

    One whose first operand is transposed stays: its rows are no tokens.
    """
    for node in list(graph):
        if node.op_type != "Gemm" or node.attributes.get_int("transA", 0) != 0:
            continue
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if not walk.is_constant(weight) or (bias and not walk.is_constant(bias)):
            continue
        matrix = walk.array_of(weight)
        if node.attributes.get_int("transB", 0):
            matrix = matrix.T
        matrix = matrix * matrix.dtype.type(node.attributes.get_float("alpha", 1.0))
        build = Builder(graph, node)
        output = build.one("MatMul", walk.data_input(node), build.constant(matrix))
        output.shape, output.type = node.outputs[0].shape, node.outputs[0].type
        if bias is not None:
            addend = walk.array_of(bias)
            if all(dim == 1 for dim in addend.shape[:-1]):
                addend = addend.reshape(-1)  # else it differs from row to row, and is no bias
            addend = addend * addend.dtype.type(node.attributes.get_float("beta", 1.0))
            output = build.one("Add", output, build.constant(addend))
        replace_value(node.outputs[0], output)
        graph.remove(node, safe=True)


def unflatten_linears(graph: ir.Graph) -> None:
    """Let linear layers work on (batch, tokens, width) where an exporter flattened it to rows.

    The Reshape moves behind the layer, and on behind what treats each row alone, such as GELU,
    until it meets the Reshape that undoes it.
    """
    linears = walk.find_linears(graph)
    for node in list(graph):
        if node in linears:
            linear = linears[node]
            source = _source_of_rows(linear.input)
            if source is not None:
                _replace_rows(graph, linear.output, _rebuild(graph, linear, source))
        elif node.op_type in _ROWWISE and len(node.outputs) == 1:
            _unflatten_rowwise(graph, node)


def _unflatten_rowwise(graph: ir.Graph, node: ir.Node) -> None:
    inputs: list[ir.Value] = []
    dims: tuple[int | ir.SymbolicDim, ...] = ()
    for value in node.inputs:
        if value is None:
            return
        source = None if walk.is_constant(value) else _source_of_rows(value)
        if source is None:
            if not walk.is_constant(value) or len(walk.array_shape(value)) > 1:
                return
        elif dims and dims[1:] != walk.dims_of(source)[1:]:
            return
        else:
            dims = walk.dims_of(source)
        inputs.append(source or value)
    rows = node.outputs[0]
    if not dims or rows.shape is None or node.attributes.get_int("axis", -1) != -1:
        return
    copy = ir.node(node.op_type, inputs, node.attributes)
    graph.insert_before(node, copy)
    output = copy.outputs[0]
    output.name = f"{rows.name}/unflattened"
    output.shape, output.type = ir.Shape([*dims[:-1], rows.shape[-1]]), rows.type
    _replace_rows(graph, rows, output)


def _source_of_rows(value: ir.Value) -> ir.Value | None:
    """Return the (batch, ..., width) value of which `value` is a Reshape to rows (rows, width)."""
    above, rows = walk.made_by(value, "Reshape"), walk.dims_of(value)
    dims = walk.dims_of(walk.data_input(above)) if above is not None else ()
    if above is None or len(rows) != 2 or len(dims) < 3 or dims[-1] != rows[-1]:
        return None
    return walk.data_input(above) if all(isinstance(dim, int) for dim in dims[1:]) else None


def _replace_rows(graph: ir.Graph, rows: ir.Value, output: ir.Value) -> None:
    """Let the readers of `rows` (rows, width) read `output` (batch, ..., width) instead."""
    before, dims = rows.producer(), walk.dims_of(output)
    assert before is not None
    for node in list(walk.consumers(rows)):
        if not _is_free_reshape(node):
            continue
        # Dimensions that are equal but for one are equal: the number of elements is.
        shape = node.outputs[0].shape
        if shape is not None and tuple(shape)[1:] == dims[1:]:
            replace_value(node.outputs[0], output)
        else:
            node.replace_input_with(0, output)
    if rows.uses() or rows.is_graph_output():
        build = Builder(graph, before)
        flat = build.one("Reshape", output, build.ints(-1, dims[-1]))
        flat.shape, flat.type = rows.shape, rows.type
        replace_value(rows, flat)


def _is_free_reshape(node: ir.Node) -> bool:
    """Return whether `node` is a Reshape to a constant target that copies no dimension (0 does)."""
    if node.op_type != "Reshape" or not walk.is_constant(node.inputs[1]):
        return False
    return bool(walk.array_of(node.inputs[1]).all())


def merge_consecutive(graph: ir.Graph) -> None:
    """Turn two square linear layers, with nothing but moves of tokens between them, into one.

    TimeSformer has a layer behind the output layer of its attention in time.
    """
    linears = {linear.output: linear for linear in walk.find_linears(graph).values()}
    for second in linears.values():
        value = second.input
        while (node := walk.made_by(value, "Reshape", "Transpose")) and walk.is_read_once(value):
            if not walk.is_movement(node) or not keeps_last_axis(node):
                break
            value = walk.data_input(node)
        first = linears.get(value)
        is_square = len({*second.shape, *(first.shape if first else ())}) == 1
        if first is None or not is_square or not walk.is_read_once(value):
            continue
        weight, bias = second.weight.astype(np.float64), second.bias.astype(np.float64)
        bias += first.bias.astype(np.float64) @ weight
        weight = first.weight.astype(np.float64) @ weight
        build = Builder(graph, first.matmul)
        rank = len(walk.dims_of(value))
        merged = build.linear(
            first.input, weight.astype(np.float32), bias.astype(np.float32), is_flat=rank != 3
        )
        replace_value(second.output, second.input)
        replace_value(value, merged)


def shape_biases(graph: ir.Graph) -> None:
    """Shape the bias of each linear layer on tokens (1, 1, N), and add it as the second operand.

    ONNX Runtime turns a MatMul and an Add of a (N,) bias into a float Gemm, also where INT8 was
    meant.
    """
    for linear in walk.find_linears(graph).values():
        if linear.add is not None and len(walk.dims_of(linear.output)) == 3:
            bias = add_constant(graph, "", linear.bias.reshape(1, 1, -1))
            linear.add.replace_input_with(0, linear.matmul.outputs[0])
            linear.add.replace_input_with(1, bias)


def merge_linears(graph: ir.Graph, linears: Sequence[Linear]) -> bool:
    """Turn linear layers that read the same value into one and a Split; return whether it could."""
    if len(linears) < 2 or len({linear.input for linear in linears}) != 1:
        return False
    rank = len(walk.dims_of(linears[0].input))
    if rank < 2:
        return False
    first = min((linear.matmul for linear in linears), key=list(graph).index)
    build = Builder(graph, first)
    weight = np.concatenate([linear.weight for linear in linears], axis=1)
    bias = np.concatenate([linear.bias for linear in linears])
    output = build.linear(linears[0].input, weight, bias, is_flat=rank == 2)
    parts = build.split(output, [linear.shape[1] for linear in linears])
    for linear, part in zip(linears, parts, strict=True):
        replace_value(linear.output, part)
    return True


def _rebuild(graph: ir.Graph, linear: Linear, source: ir.Value) -> ir.Value:
    """Add a copy of `linear` that reads `source`, and return its output."""
    build = Builder(graph, linear.add or linear.matmul)
    shape = ir.Shape([*walk.dims_of(source)[:-1], linear.shape[1]])
    output = build.one("MatMul", source, build.constant(linear.weight))
    output.shape, output.type = shape, source.type
    if linear.add is not None:
        output = build.one("Add", output, build.constant(linear.bias))
        output.shape, output.type = shape, source.type
    return output
