"""Writes the INT8 graph in ONNX Runtime's own operators, for x86 processors with VNNI.

The portable Q/DQ graph gives ONNX Runtime the same INT8 products, but leaves their bias and the
split of queries, keys and values as passes of their own over memory. Here the bias is an input of
the product, and queries, keys and values are three products of one quantized activation, or where
the tokens are few a part of their attention. VNNI multiplies uint8 by int8, so activations are
uint8 with a zero point 128 higher: the same levels. Attention is one operator, pixels become tokens
in integers, and nothing is computed for dead tokens.

Operator: ``com.microsoft.MatMulIntegerToFloat``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.graph.constant import add_constant, new_node
from edge_vit.graph.walk import Array, array_of, consumers, data_input, find_bias, is_constant
from edge_vit.lowering.dead_tokens import drop_dead_tokens
from edge_vit.lowering.ort_x64.attention import DOMAIN, fuse_attention
from edge_vit.lowering.ort_x64.embedding import fold_pixels
from edge_vit.lowering.ort_x64.qkv import fuse_qkv

_OFFSET = 128  # from int8 to uint8


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
        constant = next(v for v in self.add.inputs if v is not None and is_constant(v))
        return np.broadcast_to(array_of(constant).reshape(-1), (width,))


def write_ort_x64(portable: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the graph that `write_qdq` wrote, its INT8 products in the faster form.

    From the tokens on, the outputs agree up to the rounding of float32 sums.
    """
    model = ir.from_proto(portable)
    graph = model.graph
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    drop_dead_tokens(graph)
    shared: dict[tuple[ir.Value, float, int], ir.Value] = {}
    for product in [p for p in map(_find_product, graph) if p is not None]:
        key = (product.activation, float(array_of(product.scale)), product.zero)
        if key not in shared:
            shared[key] = _quantize(graph, product)
        _replace(graph, product, shared[key])
    fuse_attention(graph)
    fold_pixels(graph)
    passes.RemoveUnusedNodesPass()(model)  # the products have one reader now
    fuse_qkv(graph)
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports[DOMAIN] = 1
    return ir.to_proto(model)


def _find_product(matmul: ir.Node) -> _Product | None:
    if matmul.op_type != "MatMul":
        return None
    left, right = (None if value is None else value.producer() for value in matmul.inputs)
    if not (_is_dequantize(left) and _is_dequantize(right)):
        return None
    assert left is not None
    assert right is not None
    quantize, (levels, scales) = data_input(left).producer(), right.inputs[:2]
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    assert levels is not None
    assert scales is not None
    scale, zero = quantize.inputs[1:3]
    assert scale is not None
    assert zero is not None
    return _Product(
        matmul,
        find_bias(matmul, array_of(levels).shape[1]),
        data_input(quantize),
        scale,
        int(array_of(zero)),
        array_of(levels),
        array_of(scales),
    )


def _is_dequantize(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"


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
    ends = [product.weight.shape[1]] if split is None else list(np.cumsum(_sizes(split)))
    zero_level = np.uint8(_OFFSET + product.zero)
    zero = add_constant(graph, f"{product.matmul.name}/zero_point", zero_level)
    start = 0
    for index, (value, end) in enumerate(zip(old, ends, strict=True)):
        part, name = slice(start, end), f"{product.matmul.name}/{index}"
        constants = (
            ("weight", np.ascontiguousarray(product.weight[:, part])),
            ("scales", product.weight_scales[part]),
            ("zeros", np.zeros(end - start, np.int8)),
            ("bias", np.ascontiguousarray(product.bias[part])),
        )
        weight, scales, zeros, bias = (
            add_constant(graph, f"{name}/{kind}", array) for kind, array in constants
        )
        inputs = [activation, weight, product.scale, scales, zero, zeros, bias]
        node = new_node("MatMulIntegerToFloat", name, inputs, domain=DOMAIN)
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        graph.insert_before(product.matmul, node)
        value.replace_all_uses_with(node.outputs[0])
        start = end


def _find_split(value: ir.Value) -> ir.Node | None:
    """Return the Split of the last axis, into parts of known sizes, that alone reads `value`."""
    readers = list(consumers(value))
    if len(readers) != 1 or readers[0].op_type != "Split":
        return None
    sizes = readers[0].inputs[1] if len(readers[0].inputs) > 1 else None
    axis = readers[0].attributes.get("axis")
    last = () if value.shape is None else (len(value.shape) - 1,)
    is_last = axis is not None and axis.as_int() in (-1, *last)
    return readers[0] if is_last and sizes is not None and is_constant(sizes) else None


def _sizes(split: ir.Node) -> Sequence[int]:
    sizes = split.inputs[1]
    assert sizes is not None
    return [int(size) for size in array_of(sizes)]
