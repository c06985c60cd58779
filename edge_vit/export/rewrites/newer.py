"""Spells out operators that came after the opset that we write."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.graph.walk import data_input


def spell_out_newer(graph: ir.Graph) -> int:
    """Turn Attention and RMSNormalization of opset 23 into what opset 19 has.

    An Attention that does more than attend (a cache, a causal mask, a cap, grouped heads) stays as
    it is; the checker names it then.

    Returns:
        How many were spelled out.
    """
    spelled = {"Attention": _spell_attention, "RMSNormalization": _spell_rms_norm}
    return sum(
        spelled[node.op_type](graph, node)
        for node in list(graph)
        if node.op_type in spelled and node.domain == ""
    )


def _spell_attention(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``softmax(Q K^T scale + mask) V``; Q, K and V are (batch, heads, tokens, width)."""
    query, key, value, mask, *more = (*node.inputs, None)[: max(4, len(node.inputs))]
    if query is None or key is None or value is None or any(v is not None for v in more):
        return False
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    cap = node.attributes.get("softcap")
    if node.attributes.get_int("is_causal", 0) or (cap is not None and cap.as_float()):
        return False
    shapes = [v.shape for v in (query, key, value)]
    if not all(s is not None and len(s) == 4 for s in shapes):
        return False
    heads = {s[1] for s in shapes if s is not None}
    width = shapes[0][-1] if shapes[0] is not None else None
    if len(heads) != 1 or not isinstance(width, int):
        return False
    build = Builder(graph, node)
    given = node.attributes.get("scale")
    scale = given.as_float() if given is not None else 1 / math.sqrt(width)
    keys = build.one("Transpose", key, perm=(0, 1, 3, 2))
    scores = build.one("MatMul", query, keys)
    scores = build.one("Mul", scores, build.constant(np.asarray(scale, np.float32)))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        never = build.constant(np.asarray(-np.inf, np.float32))
        scores = build.one("Where", mask, scores, never)
    elif mask is not None:
        scores = build.one("Add", scores, mask)
    context = build.one("MatMul", build.one("Softmax", scores, axis=-1), value)
    replace_value(node.outputs[0], context)
    return True


def _spell_rms_norm(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""
    x, weight = data_input(node), node.inputs[1]
    axis = node.attributes.get_int("axis", -1)
    if weight is None or (axis != -1 and (x.shape is None or axis != len(x.shape) - 1)):
        return False
    build = Builder(graph, node)
    eps = build.constant(np.asarray(node.attributes.get_float("epsilon", 1e-5), np.float32))
    last = build.constant(np.array([-1], np.int64))
    square = build.one("ReduceMean", build.one("Mul", x, x), last, keepdims=1)
    root = build.one("Sqrt", build.one("Add", square, eps))
    replace_value(node.outputs[0], build.one("Mul", build.one("Div", x, root), weight))
    return True
