"""Queries, keys and values as INT8 products inside the attention that reads them.

They come out of the products head by head, as attention wants them: two threads meet once where
they met four times, and nothing is copied into another order. The rest stays in float32.

Operator: ``com.microsoft.QAttention``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edge_vit.graph.constant import add_constant, new_node
from edge_vit.graph.walk import Array, array_of, consumers, data_input
from edge_vit.lowering.ort_x64.attention import DOMAIN

MAX_TOKENS = 400
"""Of a whole batch, where that is fixed. This operator holds all scores of a head at once,
`MultiHeadAttention` a few rows: for one image and two threads it takes 0.86 of the time at 197
tokens and 1.2 at 1,370; at 577 it gains a little, but loses half with one thread and a batch of
eight (docs/cpu.md)."""

_WEIGHT, _SCALE, _SCALES, _ZERO, _BIAS = 1, 2, 3, 4, 6  # inputs of MatMulIntegerToFloat


def fuse_qkv(graph: ir.Graph) -> int:
    """Put the products that feed a `MultiHeadAttention` alone into it; return into how many.

    The products have to be of one uint8 activation, (batch, tokens, width), and of equal widths.
    """
    attentions = [node for node in graph if node.op_type == "MultiHeadAttention"]
    return sum(_fuse(graph, attention) for attention in attentions)


def _fuse(graph: ir.Graph, attention: ir.Node) -> bool:
    products = [node for value in attention.inputs[:3] if (node := _product(value)) is not None]
    activations = {product.inputs[0] for product in products}
    if len(products) != 3 or len(activations) != 1 or not _is_short(data_input(products[0])):
        return False
    weights = [_constant(product, _WEIGHT) for product in products]
    heads, width = attention.attributes["num_heads"].as_int(), weights[0].shape[1]
    if any(weight.shape[1] != width for weight in weights) or width % heads:
        return False
    # The operator divides the scores by this; here the queries are scaled already.
    factor = attention.attributes["scale"].as_float() * np.sqrt(width // heads)
    factors = np.repeat([factor, 1, 1], width)
    scales = np.concatenate([_constant(product, _SCALES) for product in products]) * factors
    bias = np.concatenate([_constant(product, _BIAS) for product in products]) * factors
    name = f"{(products[0].name or '').rpartition('/')[0]}/attention"
    inputs = [
        products[0].inputs[0],
        add_constant(graph, f"{name}/weight", np.concatenate(weights, axis=1)),
        add_constant(graph, f"{name}/bias", bias.astype(np.float32)),
        products[0].inputs[_SCALE],
        add_constant(graph, f"{name}/scales", scales.astype(np.float32)),
        None,  # no mask
        products[0].inputs[_ZERO],
        add_constant(graph, f"{name}/zero", np.int8(0)),
    ]
    node = new_node("QAttention", name, inputs, {"num_heads": heads}, DOMAIN)
    graph.insert_before(attention, node)
    attention.outputs[0].replace_all_uses_with(node.outputs[0])
    return True


def _product(value: ir.Value | None) -> ir.Node | None:
    """Return the INT8 product whose output `value` is, where attention alone reads it."""
    if value is None or value.is_graph_output() or len(list(consumers(value))) != 1:
        return None
    node = value.producer()
    return node if node is not None and node.op_type == "MatMulIntegerToFloat" else None


def _is_short(levels: ir.Value) -> bool:
    """Whether the activation of `levels` is known to be (batch, tokens, width), tokens few."""
    quantize = levels.producer()
    shape = None if quantize is None else data_input(quantize).shape
    if shape is None or len(shape) != 3 or not isinstance(shape[1], int):
        return False
    return shape[1] * (shape[0] if isinstance(shape[0], int) else 1) <= MAX_TOKENS


def _constant(product: ir.Node, index: int) -> Array:
    value = product.inputs[index]
    assert value is not None
    return array_of(value)
