"""Recognises LayerNorm and GELU in the shapes that exporters break them into."""

from __future__ import annotations

import math

import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.edit import Builder, replace_value


def fuse_layer_norms(graph: ir.Graph) -> int:
    """Turn ``(x - mean) / sqrt(var + eps) * gamma + beta`` into one node; return how many.

    A broken-up LayerNorm overflows in float16: it squares activations that reach the thousands.
    Mean and variance must be over the last axis, which they keep, the variance of all values
    alike (ddof 0), gamma and beta one number for each channel; anything else stays as it is.
    """
    return sum(
        _fuse_layer_norm(graph, node) for node in list(graph) if node.op_type == "ReduceMean"
    )


def _fuse_layer_norm(graph: ir.Graph, mean: ir.Node) -> bool:
    x = walk.data_input(mean)
    centred = [node for node in walk.consumers(mean.outputs[0]) if node.op_type == "Sub"]
    if (
        len(centred) != 1
        or walk.data_input(centred[0]) is not x
        or not walk.reduces_last_axis(mean)
    ):
        return False
    difference = centred[0].outputs[0]
    variances = [
        reduced
        for square in walk.consumers(difference)
        if _is_square(square)
        for reduced in walk.consumers(square.outputs[0])
        if reduced.op_type == "ReduceMean" and walk.reduces_last_axis(reduced)
    ]
    shifted = walk.sole_reader(variances[0].outputs[0], "Add") if variances else None
    root = walk.sole_reader(shifted.outputs[0], "Sqrt") if shifted is not None else None
    if shifted is None or root is None or walk.adds_dimensions(*shifted.inputs):
        return False
    eps = walk.scalar_of(walk.other_operand(shifted, variances[0].outputs[0]))
    divisor = root.outputs[0]
    divided = walk.sole_reader(divisor, "Div", "Reciprocal")
    if divided is not None and divided.op_type == "Reciprocal":
        divisor = divided.outputs[0]
        divided = walk.sole_reader(divisor, "Mul")
    if eps is None or divided is None or walk.other_operand(divided, divisor) is not difference:
        return False
    if divided.op_type == "Div" and walk.data_input(divided) is not difference:
        return False
    scaled = walk.sole_reader(divided.outputs[0], "Mul")
    last = walk.sole_reader(scaled.outputs[0], "Add") if scaled is not None else None
    if scaled is None or last is None:
        return False
    gamma = walk.other_operand(scaled, divided.outputs[0])
    beta = walk.other_operand(last, scaled.outputs[0])
    if not (_is_per_channel(gamma, x) and _is_per_channel(beta, x)):
        return False
    build = Builder(graph, last)
    vectors = [build.constant(walk.array_of(value).reshape(-1)) for value in (gamma, beta)]
    fused = build.one("LayerNormalization", x, *vectors, axis=-1, epsilon=eps)
    replace_value(last.outputs[0], fused)
    return True


def _is_per_channel(gamma: ir.Value | None, x: ir.Value) -> bool:
    """Return whether the constant `gamma` holds one number for each channel of `x`."""
    dims = walk.array_shape(gamma) if walk.is_constant(gamma) else ()
    if not 0 < len(dims) <= len(walk.dims_of(x)):
        return False
    return dims[-1] == walk.dims_of(x)[-1] and all(dim == 1 for dim in dims[:-1])


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    return node.op_type == "Pow" and walk.scalar_of(node.inputs[1]) == 2.0


def restore_reciprocals(graph: ir.Graph) -> int:
    """Turn one divided by a value into its Reciprocal, and return how many there were.

    torch's older exporter writes the inverse root of a norm so.
    """
    found = [node for node in graph if node.op_type == "Div" and _is_inverse(node)]
    for node in found:
        inverse = Builder(graph, node).one("Reciprocal", walk.data_input(node, 1))
        inverse.shape, inverse.type = node.outputs[0].shape, node.outputs[0].type
        replace_value(node.outputs[0], inverse)
    return len(found)


def _is_inverse(node: ir.Node) -> bool:
    one, value = node.inputs[0], walk.data_input(node, 1)
    is_one = walk.scalar_of(one) == 1 and value.dtype == ir.DataType.FLOAT
    return is_one and len(walk.array_shape(one)) <= len(walk.dims_of(value))


def restore_softmaxes(graph: ir.Graph) -> int:
    """Turn ``Flatten -> Softmax -> Reshape back`` into one Softmax over the last axis.

    That is what the converter to opset 13 makes of an older file's Softmax. The softmax must be
    over each row, and a row be one vector of what was flattened. Return how many were restored.
    """
    return sum(_restore_softmax(graph, node) for node in list(graph) if node.op_type == "Softmax")


def _restore_softmax(graph: ir.Graph, node: ir.Node) -> bool:
    above = walk.made_by(walk.data_input(node), "Flatten", "Reshape")
    below = walk.sole_reader(node.outputs[0], "Reshape")
    if above is None or below is None or node.attributes.get_int("axis", -1) not in (-1, 1):
        return False
    source = walk.data_input(above)
    rows, inner = walk.dims_of(walk.data_input(node)), walk.dims_of(source)[1:]
    if len(rows) != 2 or not inner or not all(isinstance(dim, int) for dim in inner):
        return False
    if rows[1] != inner[-1] or walk.dims_of(below.outputs[0])[1:] != inner:
        return False
    replace_value(below.outputs[0], Builder(graph, below).one("Softmax", source, axis=-1))
    return True


def rewrite_gelus(graph: ir.Graph) -> int:
    """Bring every exact GELU into ``x / sqrt(2) -> Erf -> + 1 -> * x -> * 0.5``; return how many.

    That is the form that ONNX Runtime, TensorRT and OpenVINO all fuse again. GELU in its tanh form
    (SigLIP, GPT) is another function and is left as it is, or spelled out where it is one operator,
    which opset 19 does not have.
    """
    return sum(
        _rewrite_gelu(graph, node) for node in list(graph) if node.op_type in ("Erf", "Gelu")
    )


def _rewrite_gelu(graph: ir.Graph, node: ir.Node) -> bool:
    found = (walk.data_input(node), node) if node.op_type == "Gelu" else _erf_gelu(node)
    if found is None:
        return False
    x, last = found
    build = Builder(graph, last)
    if node.attributes.get_string("approximate", "none") == "tanh":
        # x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hendrycks and Gimpel, 2016
        cubed = build.one("Mul", build.one("Mul", x, x), x)
        cubed = build.one("Mul", cubed, build.number(0.044715))
        inner = build.one("Mul", build.one("Add", x, cubed), build.number(math.sqrt(2 / math.pi)))
        shape = build.one("Tanh", inner)
    else:
        shape = build.one("Erf", build.one("Div", x, build.number(math.sqrt(2))))
    plus_one = build.one("Add", shape, build.number(1.0))
    product = build.one("Mul", build.one("Mul", x, plus_one), build.number(0.5))
    replace_value(last.outputs[0], product)
    return True


def _erf_gelu(erf: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Return (x, the node that yields gelu(x)) where `erf` is a GELU's."""
    scaled = walk.scaled_by(walk.data_input(erf).producer())
    if scaled is None or not math.isclose(scaled[1], math.sqrt(0.5), rel_tol=1e-5):
        return None
    x = scaled[0]
    node = walk.sole_reader(erf.outputs[0], "Add")
    if node is None or walk.scalar_of(walk.other_operand(node, erf.outputs[0])) != 1.0:
        return None
    if walk.adds_dimensions(*node.inputs):
        return None
    factor, num_x = 1.0, 0  # what 1 + erf is multiplied by until it is gelu(x)
    for _ in range(2):
        value = node.outputs[0]
        node = walk.sole_reader(value, "Mul", "Div")
        if node is None:
            return None
        by = walk.scaled_by(node)
        if by is not None:
            factor *= by[1]
            continue
        other = walk.other_operand(node, value)
        if other is None or node.op_type != "Mul":
            return None
        half = (x, 1.0) if other is x else walk.scaled_by(other.producer())
        if half is None or half[0] is not x:
            return None
        factor, num_x = factor * half[1], num_x + 1
        if num_x == 1 and math.isclose(factor, 0.5):
            return x, node
    return (x, node) if num_x == 1 and math.isclose(factor, 0.5) else None
