"""Recognises LayerNorm and GELU in the shapes that exporters break them into."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.graph.walk import (
    adds_dimensions,
    array_of,
    array_shape,
    consumers,
    data_input,
    is_constant,
    other_operand,
    reduced_axes,
    scalar_of,
    scaled_by,
)


def fuse_layer_norms(graph: ir.Graph) -> int:
    """Turn ``(x - mean) / sqrt(var + eps) * gamma + beta`` into LayerNormalization.

    A broken-up LayerNorm overflows in float16: it squares activations that reach the thousands.
    Mean and variance must be over the last axis, which they keep, the variance of all values
    alike (ddof 0), gamma and beta one number for each channel; anything else stays as it is.

    Returns:
        How many were fused.
    """
    return sum(
        _fuse_layer_norm(graph, node) for node in list(graph) if node.op_type == "ReduceMean"
    )


def _fuse_layer_norm(graph: ir.Graph, mean: ir.Node) -> bool:
    x = data_input(mean)
    centred = _only(node for node in consumers(mean.outputs[0]) if node.op_type == "Sub")
    if centred is None or data_input(centred) is not x or not _is_last_axis(mean):
        return False
    difference = centred.outputs[0]
    variance = next(
        (
            reduced
            for square in consumers(difference)
            if _is_square(square)
            for reduced in consumers(square.outputs[0])
            if reduced.op_type == "ReduceMean" and _is_last_axis(reduced)
        ),
        None,
    )
    if variance is None:
        return False
    plus_eps = _only(consumers(variance.outputs[0]))
    if plus_eps is None or plus_eps.op_type != "Add":
        return False
    eps = scalar_of(other_operand(plus_eps, variance.outputs[0]))
    root = _only(consumers(plus_eps.outputs[0]))
    if eps is None or root is None or root.op_type != "Sqrt":
        return False
    divided = _only(consumers(root.outputs[0]))
    if divided is not None and divided.op_type == "Reciprocal":
        inverse = divided.outputs[0]
        divided = _only(consumers(inverse))
        if divided is None or divided.op_type != "Mul":
            return False
        if other_operand(divided, inverse) is not difference:
            return False
    elif divided is None or divided.op_type != "Div" or data_input(divided) is not difference:
        return False
    scaled = _only(consumers(divided.outputs[0]))
    if scaled is None or scaled.op_type != "Mul":
        return False
    gamma = other_operand(scaled, divided.outputs[0])
    shifted = _only(consumers(scaled.outputs[0]))
    if gamma is None or not is_constant(gamma) or shifted is None or shifted.op_type != "Add":
        return False
    beta = other_operand(shifted, scaled.outputs[0])
    if beta is None or not is_constant(beta):
        return False
    if not (_is_per_channel(gamma, x) and _is_per_channel(beta, x)):
        return False
    if adds_dimensions(*plus_eps.inputs):
        return False
    build = Builder(graph, shifted)
    fused = build.one(
        "LayerNormalization",
        x,
        build.constant(array_of(gamma).reshape(-1)),
        build.constant(array_of(beta).reshape(-1)),
        axis=-1,
        epsilon=eps,
    )
    replace_value(shifted.outputs[0], fused)
    return True


def restore_softmaxes(graph: ir.Graph) -> int:
    """Turn ``Flatten -> Softmax -> Reshape back`` into one Softmax over the last axis.

    That is what the converter to opset 13 makes of an older file's Softmax. The softmax must be
    over each row, and a row be one vector of what was flattened.

    Returns:
        How many were restored.
    """
    return sum(_restore_softmax(graph, node) for node in list(graph) if node.op_type == "Softmax")


def _restore_softmax(graph: ir.Graph, node: ir.Node) -> bool:
    above, below = data_input(node).producer(), _only(consumers(node.outputs[0]))
    if above is None or above.op_type not in ("Flatten", "Reshape") or below is None:
        return False
    source, rows = data_input(above), data_input(node).shape
    back = below.outputs[0].shape
    if below.op_type != "Reshape" or source.shape is None or back is None or rows is None:
        return False
    if len(rows) != 2 or node.attributes.get_int("axis", -1) not in (-1, 1):
        return False
    inner = list(source.shape)[1:]
    if not inner or not all(isinstance(dim, int) for dim in inner):
        return False
    if rows[1] != inner[-1] or list(back)[1:] != inner:
        return False
    replace_value(below.outputs[0], Builder(graph, below).one("Softmax", source, axis=-1))
    return True


def rewrite_gelus(graph: ir.Graph) -> int:
    """Bring every exact GELU into ``x / sqrt(2) -> Erf -> + 1 -> * x -> * 0.5``.

    That is the form that ONNX Runtime, TensorRT and OpenVINO all fuse again. GELU in its tanh form
    (SigLIP, GPT) is another function and is left as it is, or spelled out where it is one operator,
    which opset 19 does not have.

    Returns:
        How many were rewritten.
    """
    return sum(
        _rewrite_gelu(graph, node) for node in list(graph) if node.op_type in ("Erf", "Gelu")
    )


def _rewrite_gelu(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op_type == "Gelu":
        x, last = data_input(node), node
        approximate = node.attributes.get_string("approximate", "none")
        if approximate == "tanh":
            replace_value(last.outputs[0], _tanh_gelu(Builder(graph, last), x))
            return True
    else:
        found = _erf_gelu(node)
        if found is None:
            return False
        x, last = found
    build = Builder(graph, last)
    root2 = build.constant(np.asarray(math.sqrt(2), np.float32))
    erf = build.one("Erf", build.one("Div", x, root2))
    plus_one = build.one("Add", erf, build.constant(np.ones((), np.float32)))
    half = build.constant(np.asarray(0.5, np.float32))
    replace_value(last.outputs[0], build.one("Mul", build.one("Mul", x, plus_one), half))
    return True


def _erf_gelu(erf: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """Return (x, the node that yields gelu(x)) where `erf` is a GELU's."""
    above = data_input(erf).producer()
    scaled = scaled_by(above) if above is not None else None
    if scaled is None or not math.isclose(scaled[1], math.sqrt(0.5), rel_tol=1e-5):
        return None
    x = scaled[0]
    node = _only(consumers(erf.outputs[0]))
    if node is None or node.op_type != "Add":
        return None
    if scalar_of(other_operand(node, erf.outputs[0])) != 1.0 or adds_dimensions(*node.inputs):
        return None
    factor, num_x = 1.0, 0  # what 1 + erf is multiplied by until it is gelu(x)
    for _ in range(2):
        value = node.outputs[0]
        node = _only(consumers(value))
        if node is None or node.op_type not in ("Mul", "Div"):
            return None
        by = scaled_by(node)
        if by is not None:
            factor *= by[1]
            continue
        other = other_operand(node, value)
        if other is None or node.op_type != "Mul":
            return None
        above = other.producer()
        half = scaled_by(above) if above is not None else None
        if other is x:
            num_x += 1
        elif half is not None and half[0] is x:
            factor, num_x = factor * half[1], num_x + 1
        else:
            return None
        if num_x == 1 and math.isclose(factor, 0.5):
            return x, node
    return (x, node) if num_x == 1 and math.isclose(factor, 0.5) else None


def _tanh_gelu(build: Builder, x: ir.Value) -> ir.Value:
    """Spell out ``x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`` (Hendrycks and Gimpel, 2016)."""

    def number(value: float) -> ir.Value:
        return build.constant(np.asarray(value, np.float32))

    cubed = build.one("Mul", build.one("Mul", build.one("Mul", x, x), x), number(0.044715))
    inner = build.one("Mul", build.one("Add", x, cubed), number(math.sqrt(2 / math.pi)))
    plus_one = build.one("Add", build.one("Tanh", inner), number(1.0))
    return build.one("Mul", build.one("Mul", x, plus_one), number(0.5))


def _only(nodes: Iterable[ir.Node]) -> ir.Node | None:
    """Return the one node among `nodes`, or None where there are none or several."""
    found = list(nodes)
    return found[0] if len(found) == 1 else None


def _is_per_channel(gamma: ir.Value, x: ir.Value) -> bool:
    """Say whether the constant `gamma` holds one number for each channel of `x`."""
    dims = array_shape(gamma)
    if x.shape is None or not 0 < len(dims) <= len(x.shape):
        return False
    return dims[-1] == x.shape[-1] and all(dim == 1 for dim in dims[:-1])


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is node.inputs[1]
    return node.op_type == "Pow" and scalar_of(node.inputs[1]) == 2.0


def _is_last_axis(node: ir.Node) -> bool:
    """Say whether `node` reduces the last axis alone, and keeps it."""
    axes = reduced_axes(node)
    if axes is None:
        return False
    shape = data_input(node).shape
    rank = len(shape) if shape is not None else None
    return axes in ([-1], [rank - 1] if rank else [-1])
