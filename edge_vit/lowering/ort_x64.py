"""Writes the INT8 graph in ONNX Runtime's own operators, for x86 processors with VNNI.

The portable Q/DQ graph gives ONNX Runtime the same INT8 products, but leaves their bias and the
split of queries, keys and values as passes of their own over memory. Here the bias is an input of
the product, and queries, keys and values are three products of one quantized activation, or where
the tokens are few a part of their attention. VNNI multiplies uint8 by int8, so activations are
uint8 with a zero point 128 higher: the same levels. Attention is one operator, in place of four
copies, two products and a softmax, pixels become tokens in integers, and nothing is computed for
dead tokens.

Operators: MatMulIntegerToFloat, MultiHeadAttention and QAttention of ``com.microsoft``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.graph import walk
from edge_vit.graph.edit import add_constant, new_node
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.sites import Attention, find_attentions
from edge_vit.graph.walk import Array
from edge_vit.lowering.dead_tokens import drop_dead_tokens
from edge_vit.lowering.ort_x64_pixels import DOMAIN, PRODUCT, fold_pixels

MAX_TOKENS = 400
"""Of a whole batch, where that is fixed, for QAttention, which holds all scores of a head at once,
`MultiHeadAttention` a few rows: for one image and two threads it takes 0.86 of the time at 197
tokens and 1.2 at 1,370; at 577 it gains a little, but loses half with one thread and a batch of
eight (docs/cpu.md)."""

_OFFSET = 128  # from int8 to uint8
_WEIGHT, _SCALE, _SCALES, _ZERO, _BIAS = 1, 2, 3, 4, 6  # inputs of MatMulIntegerToFloat
_TO_HEADS, _TO_KEYS = (0, 2, 1, 3), (0, 2, 3, 1)


def write_ort_x64(portable: onnx.ModelProto, spill: Spill | None = None) -> onnx.ModelProto:
    """Return a copy of the graph that `write_qdq` wrote, its INT8 products in the faster form.

    From the tokens on, the outputs agree up to the rounding of float32 sums. The weights of a large
    graph go to `spill`, where they stay.
    """
    model = ir.from_proto(portable)
    graph = model.graph
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    drop_dead_tokens(graph)
    shared: dict[tuple[ir.Value, float, int], ir.Value] = {}
    for product in [p for p in map(_find_product, graph) if p is not None]:
        key = (product.activation, float(walk.array_of(product.scale)), product.zero)
        if key not in shared:
            shared[key] = _quantize(graph, product)
        _replace(graph, product, shared[key])
    fuse_attention(graph)
    fold_pixels(graph)
    passes.RemoveUnusedNodesPass()(model)  # the products have one reader now
    fuse_qkv(graph)
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports[DOMAIN] = 1
    return to_proto(model, spill)


@dataclass(frozen=True)
class _Product:
    """One INT8 product of the portable graph: Q/DQ -> MatMul <- DQ, and the bias behind it."""

    matmul: ir.Node
    add: ir.Node | None
    activation: ir.Value
    scale: ir.Value
    zero: int
    weight: Array
    weight_scales: Array

    @property
    def output(self) -> ir.Value:
        return (self.add or self.matmul).outputs[0]

    @property
    def bias(self) -> Array:
        width = self.weight.shape[1]
        if self.add is None:
            return np.zeros(width, np.float32)
        constant = walk.array_of(self.add.inputs[walk.constant_index(self.add)])
        return np.broadcast_to(constant.reshape(-1), (width,))


def _find_product(matmul: ir.Node) -> _Product | None:
    if matmul.op_type != "MatMul":
        return None
    left, right = (walk.made_by(value, "DequantizeLinear") for value in matmul.inputs)
    quantize = walk.made_by(walk.data_input(left), "QuantizeLinear") if left is not None else None
    if quantize is None or right is None:
        return None
    levels = walk.array_of(right.inputs[0])
    return _Product(
        matmul,
        walk.find_bias(matmul, levels.shape[1]),
        walk.data_input(quantize),
        walk.data_input(quantize, 1),
        int(walk.array_of(quantize.inputs[2])),
        levels,
        walk.array_of(right.inputs[1]),
    )


def _quantize(graph: ir.Graph, product: _Product) -> ir.Value:
    """Return the activation of `product` as uint8; made before its first reader."""
    name = product.matmul.name
    zero = add_constant(graph, f"{name}/zero", np.uint8(_OFFSET + product.zero))
    node = new_node("QuantizeLinear", f"{name}/u8", [product.activation, product.scale, zero])
    graph.insert_before(product.matmul, node)
    return node.outputs[0]


def _replace(graph: ir.Graph, product: _Product, activation: ir.Value) -> None:
    """Let products with the bias inside take the place of `product`: one for each part of it."""
    split = _find_split(product.output)
    old = [product.output] if split is None else list(split.outputs)
    sizes = [product.weight.shape[1]] if split is None else walk.array_of(split.inputs[1])
    zero_level = np.uint8(_OFFSET + product.zero)
    zero = add_constant(graph, f"{product.matmul.name}/zero_point", zero_level)
    start = 0
    for index, (value, end) in enumerate(zip(old, np.cumsum(sizes), strict=True)):
        part, name = slice(start, end), f"{product.matmul.name}/{index}"
        constants = {
            "weight": np.ascontiguousarray(product.weight[:, part]),
            "scales": product.weight_scales[part],
            "zeros": np.zeros(end - start, np.int8),
            "bias": np.ascontiguousarray(product.bias[part]),
        }
        weight, scales, zeros, bias = (
            add_constant(graph, f"{name}/{kind}", array) for kind, array in constants.items()
        )
        inputs = [activation, weight, product.scale, scales, zero, zeros, bias]
        node = new_node(PRODUCT, name, inputs, domain=DOMAIN, like=value)
        graph.insert_before(product.matmul, node)
        value.replace_all_uses_with(node.outputs[0])
        start = end


def _find_split(value: ir.Value) -> ir.Node | None:
    """Return the Split of the last axis, into parts of known sizes, that alone reads `value`."""
    split = walk.sole_reader(value, "Split")
    if split is None or len(split.inputs) < 2 or not walk.is_constant(split.inputs[1]):
        return None
    axis = split.attributes.get_int("axis", 0)
    return split if axis in (-1, len(walk.dims_of(value)) - 1) else None


def fuse_attention(graph: ir.Graph) -> int:
    """Fuse the attentions of `graph` that mask and normalise nothing; return how many.

    Queries are scaled already, as canonical form has them.
    """
    found = [fused for fused in map(_fuse_attention, find_attentions(graph)) if fused is not None]
    for node, output in found:
        producer = output.producer()
        assert producer is not None
        graph.insert_before(producer, node)
        output.replace_all_uses_with(node.outputs[0])
    return len(found)


def _fuse_attention(attention: Attention) -> tuple[ir.Node, ir.Value] | None:
    """Return the one operator for `attention`, and the value that it makes."""
    scores, softmax, context = attention.scores, attention.softmax, attention.context
    is_plain = (
        walk.data_input(softmax) is scores.outputs[0]
        and walk.data_input(context) is softmax.outputs[0]
        and walk.is_over_last_axis(softmax)
    )
    back = walk.sole_reader(context.outputs[0], "Transpose")
    merged = walk.sole_reader(back.outputs[0], "Reshape") if back is not None else None
    orders = zip(attention.operands, (_TO_HEADS, _TO_KEYS, _TO_HEADS), strict=True)
    parts = [part for value, order in orders if (part := _tokens_of(value, order)) is not None]
    if not is_plain or back is None or merged is None or len(parts) < 3:
        return None
    (query, heads), (key, _), (value, _) = parts
    is_same = {heads} == {num for _, num in parts} and walk.permutation(back) == _TO_HEADS
    sizes = walk.dims_of(merged.outputs[0])[1:]
    if not is_same or sizes != (walk.dims_of(query)[1], walk.dims_of(value)[2]):
        return None
    name = softmax.name.rpartition("/")[0] + "/attention" if softmax.name else "attention"
    attributes = {"num_heads": heads, "scale": 1.0}
    node = new_node("MultiHeadAttention", name, [query, key, value], attributes, DOMAIN)
    return node, merged.outputs[0]


def _tokens_of(value: ir.Value, order: tuple[int, ...]) -> tuple[ir.Value, int] | None:
    """Return the (batch, tokens, width) that `value` is the heads of, and how many these are.

    None where that is something else, such as windows of a few of the tokens each.
    """
    transpose = walk.made_by(value, "Transpose")
    reshape = walk.made_by(walk.data_input(transpose), "Reshape") if transpose is not None else None
    if transpose is None or reshape is None or walk.permutation(transpose) != order:
        return None
    tokens, heads = walk.data_input(reshape), walk.dims_of(reshape.outputs[0])[1:]
    if len(heads) != 3 or not all(isinstance(n, int) for n in heads):
        return None
    is_all = walk.dims_of(tokens)[1:] == (heads[0], heads[1] * heads[2])
    return (tokens, heads[1]) if is_all else None


def fuse_qkv(graph: ir.Graph) -> int:
    """Put the products that feed a `MultiHeadAttention` alone into it; return into how many.

    They come out head by head then, as attention wants them: two threads meet once where they met
    four times, and nothing is copied into another order. The products have to be of one uint8
    activation, (batch, tokens, width), and of equal widths. The rest stays in float32.
    """
    attentions = [node for node in graph if node.op_type == "MultiHeadAttention"]
    return sum(_fuse_qkv(graph, attention) for attention in attentions)


def _fuse_qkv(graph: ir.Graph, attention: ir.Node) -> bool:
    values = [walk.data_input(attention, index) for index in range(3)]
    found = [walk.made_by(value, PRODUCT) if walk.is_read_once(value) else None for value in values]
    products = [product for product in found if product is not None]
    activations = {product.inputs[0] for product in products}
    if len(products) != 3 or len(activations) != 1 or not _is_short(walk.data_input(products[0])):
        return False
    weights = [walk.array_of(product.inputs[_WEIGHT]) for product in products]
    heads, width = attention.attributes["num_heads"].as_int(), weights[0].shape[1]
    if any(weight.shape[1] != width for weight in weights) or width % heads:
        return False
    # The operator divides the scores by this; here the queries are scaled already.
    factor = attention.attributes["scale"].as_float() * np.sqrt(width // heads)
    factors = np.repeat([factor, 1, 1], width)
    scales, bias = (
        np.concatenate([walk.array_of(product.inputs[index]) for product in products]) * factors
        for index in (_SCALES, _BIAS)
    )
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


def _is_short(levels: ir.Value) -> bool:
    """Return whether the activation of `levels` has known shape, and few tokens."""
    quantize = levels.producer()
    dims = () if quantize is None else walk.dims_of(walk.data_input(quantize))
    if len(dims) != 3 or not isinstance(dims[1], int):
        return False
    return dims[1] * (dims[0] if isinstance(dims[0], int) else 1) <= MAX_TOKENS
