"""Attention as one operator of ONNX Runtime, in place of four copies, two products and a softmax.

Operator: ``com.microsoft.MultiHeadAttention``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import onnx_ir as ir

from edge_vit.graph.constant import new_node
from edge_vit.graph.sites import Attention, find_attentions
from edge_vit.graph.walk import consumers, data_input, is_over_last_axis

DOMAIN = "com.microsoft"
_TO_HEADS, _TO_KEYS = (0, 2, 1, 3), (0, 2, 3, 1)


def fuse_attention(graph: ir.Graph) -> int:
    """Fuse the attentions of `graph` that mask and normalise nothing; return how many.

    Queries are scaled already, as canonical form has them.
    """
    found = [fused for fused in map(_fuse, find_attentions(graph)) if fused is not None]
    for node, output in found:
        producer = output.producer()
        assert producer is not None
        graph.insert_before(producer, node)
        output.replace_all_uses_with(node.outputs[0])
    return len(found)


def _fuse(attention: Attention) -> tuple[ir.Node, ir.Value] | None:
    """Return the one operator for `attention`, and the value that it makes."""
    scores, softmax, context = attention.scores, attention.softmax, attention.context
    is_plain = (
        data_input(softmax) is scores.outputs[0]
        and data_input(context) is softmax.outputs[0]
        and is_over_last_axis(softmax)
    )
    merged = _merged(context.outputs[0])
    operands = (
        (scores.inputs[0], _TO_HEADS),
        (scores.inputs[1], _TO_KEYS),
        (context.inputs[1], _TO_HEADS),
    )
    parts = [part for operand in operands if (part := _tokens_of(*operand)) is not None]
    if not is_plain or merged is None or len(parts) < len(operands):
        return None
    (query, heads), (key, _), (value, _) = parts
    assert query.shape is not None
    assert value.shape is not None
    is_same = {heads} == {num for _, num in parts}
    if not is_same or _sizes(merged) != (query.shape[1], value.shape[2]):
        return None
    name = softmax.name.rpartition("/")[0] + "/attention" if softmax.name else "attention"
    attributes = {"num_heads": heads, "scale": 1.0}
    return new_node("MultiHeadAttention", name, [query, key, value], attributes, DOMAIN), merged


def _tokens_of(value: ir.Value | None, perm: tuple[int, ...]) -> tuple[ir.Value, int] | None:
    """Return the (batch, tokens, width) that `value` is the heads of, and how many these are.

    None where that is something else, such as windows of a few of the tokens each.
    """
    transpose = None if value is None else value.producer()
    if transpose is None or transpose.op_type != "Transpose" or _perm(transpose) != perm:
        return None
    reshape = data_input(transpose).producer()
    if reshape is None or reshape.op_type != "Reshape":
        return None
    shape, tokens = reshape.outputs[0].shape, data_input(reshape)
    if shape is None or len(shape) != 4:
        return None
    num, heads, size = shape[1:]
    if not (isinstance(num, int) and isinstance(heads, int) and isinstance(size, int)):
        return None
    return (tokens, heads) if _sizes(tokens) == (num, heads * size) else None


def _sizes(value: ir.Value) -> tuple[int, int] | None:
    """Return tokens and width where `value` is known to be (batch, tokens, width)."""
    if value.shape is None or len(value.shape) != 3:
        return None
    tokens, width = value.shape[1:]
    return (tokens, width) if isinstance(tokens, int) and isinstance(width, int) else None


def _merged(context: ir.Value) -> ir.Value | None:
    """Return the (batch, tokens, width) that alone is made of `context`."""
    value = context
    for op_type in ("Transpose", "Reshape"):
        readers = list(consumers(value))
        if len(readers) != 1 or readers[0].op_type != op_type:
            return None
        if op_type == "Transpose" and _perm(readers[0]) != _TO_HEADS:
            return None
        value = readers[0].outputs[0]
    return value


def _perm(transpose: ir.Node) -> tuple[int, ...]:
    return tuple(transpose.attributes["perm"].as_ints())
