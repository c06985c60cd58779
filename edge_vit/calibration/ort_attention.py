"""Attention as one operator of ONNX Runtime, in place of four copies, two products and a softmax.

Operator: ``com.microsoft.MultiHeadAttention``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import onnx_ir as ir

from edge_vit.graph.sites import Attention, find_attentions
from edge_vit.graph.walk import array_of, consumers, data_input, is_constant

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
    axis = softmax.attributes.get("axis")
    is_plain = (
        data_input(softmax) is scores.outputs[0]
        and data_input(context) is softmax.outputs[0]
        and (axis is None or axis.as_int() in (-1, 3))
    )
    merged = _merged(context.outputs[0])
    parts = [
        _tokens_of(value, perm)
        for value, perm in (
            (scores.inputs[0], _TO_HEADS),
            (scores.inputs[1], _TO_KEYS),
            (context.inputs[1], _TO_HEADS),
        )
    ]
    if not is_plain or merged is None or any(part is None for part in parts):
        return None
    heads = {part[1] for part in parts if part is not None}
    if len(heads) != 1:
        return None
    node = ir.node(
        "MultiHeadAttention",
        [part[0] for part in parts if part is not None],
        {"num_heads": heads.pop(), "scale": 1.0},
        domain=DOMAIN,
        name=softmax.name.rpartition("/")[0] + "/attention" if softmax.name else "attention",
    )
    node.outputs[0].name = f"{node.name}:0"
    return node, merged


def _tokens_of(value: ir.Value | None, perm: tuple[int, ...]) -> tuple[ir.Value, int] | None:
    """Return the (batch, tokens, width) that `value` is the heads of, and how many these are."""
    transpose = None if value is None else value.producer()
    if transpose is None or transpose.op_type != "Transpose" or _perm(transpose) != perm:
        return None
    reshape = data_input(transpose).producer()
    shape = reshape.inputs[1] if reshape is not None and reshape.op_type == "Reshape" else None
    if reshape is None or shape is None or not is_constant(shape):
        return None
    sizes = array_of(shape).tolist()
    return (data_input(reshape), sizes[2]) if len(sizes) == 4 and sizes[2] > 0 else None


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
