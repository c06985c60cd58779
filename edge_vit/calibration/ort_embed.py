"""The patch embedding as ONNX Runtime does it fastest on x86: pixels by weights, in integers.

``(pixels - mean) / std`` is folded into the weights. Patches are cut out of the image and go into
the product as they are, uint8. A weight has 16 bits, in two products of INT8: the upper half and
the lower one. That is nearer to float32 than float16 is, and takes a third of the time of float32.

Operator: ``com.microsoft.MatMulIntegerToFloat``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.calibration.ort_attention import DOMAIN
from edge_vit.graph.constant import add_constant
from edge_vit.graph.walk import Array, array_of, consumers, is_constant

_PRODUCT = "MatMulIntegerToFloat"
_LOWER = 256  # levels of the lower half of a weight


@dataclass(frozen=True)
class _Embedding:
    """What makes tokens of pixels: Cast, Sub, Mul, Transpose, Conv, Reshape, Transpose.

    Attributes:
        mean: (C,), subtracted from the pixels.
        factor: (C,), that they are multiplied with afterwards.
        kernel: (width, C, patch, patch), of windows that lie side by side.
        bias: (width,).
        planes: the pixels as the convolution reads them, (batch, C, H, W).
        tokens: the node that makes (batch, patches, width).
    """

    mean: Array
    factor: Array
    kernel: Array
    bias: Array
    planes: ir.Value
    tokens: ir.Node


def fold_pixels(graph: ir.Graph) -> bool:
    """Let products of pixels make the tokens of `graph`; say whether it has the form for it."""
    pixels, found = graph.inputs[0], _find_embedding(graph)
    if found is None:
        return False
    _, height, width, channels = (int(n) if isinstance(n, int) else -1 for n in pixels.shape or ())
    rows, columns = found.kernel.shape[2:]
    down, across = height // rows, width // columns
    constants = {
        "cut": np.array((-1, down, rows, across, columns * channels)),
        "flat": np.array((-1, down * across, rows * columns * channels)),
        **_fold(found),
    }
    values = {
        name: add_constant(graph, f"embed/pixels/{name}", array)
        for name, array in constants.items()
    }
    values["pixels"] = pixels
    for name, op_type, inputs, attributes in _STEPS:
        node = ir.node(
            op_type,
            [values[key] for key in inputs.split()],
            attributes,
            domain=DOMAIN if op_type == _PRODUCT else "",
            name=f"embed/pixels/{name}",
        )
        values[name] = node.outputs[0]
        values[name].name = f"{node.name}:0"
        graph.insert_before(found.tokens, node)
    found.tokens.outputs[0].replace_all_uses_with(values["tokens"])
    for node in [node for node in consumers(found.planes) if node.op_type == "Shape"]:
        node.replace_input_with(0, pixels)  # it asks for the batch alone
    return True


_STEPS: tuple[tuple[str, str, str, dict[str, ir.Attr]], ...] = (
    ("rows", "Reshape", "pixels cut", {}),
    ("patches", "Transpose", "rows", {"perm": ir.AttrInt64s("perm", [0, 1, 3, 2, 4])}),
    ("flattened", "Reshape", "patches flat", {}),
    ("upper", _PRODUCT, "flattened upper_weight one upper_scales zero zeros bias", {}),
    ("lower", _PRODUCT, "flattened lower_weight one lower_scales zero zeros", {}),
    ("tokens", "Add", "upper lower", {}),
)
"""What each makes, operator, what it reads, and its attributes."""


def _fold(found: _Embedding) -> dict[str, Array]:
    """Return what the products read; weights are int8 (patch * patch * C, width)."""
    kernel = found.kernel.astype(np.float64) * found.factor.reshape(-1, 1, 1)
    weight = kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    largest = np.abs(weight).max(axis=0)
    scales = np.where(largest > 0, largest, 1) / (127 * _LOWER)
    levels = np.rint(weight / scales)
    upper = np.floor((levels + _LOWER / 2) / _LOWER)  # so that the rest is from -128 to 127
    means = np.tile(found.mean, len(weight) // len(found.mean))
    bias = found.bias - means @ (levels * scales)  # a gray image is exact
    return {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "zeros": np.zeros(len(kernel), np.int8),
        "upper_weight": upper.astype(np.int8),
        "lower_weight": (levels - _LOWER * upper).astype(np.int8),
        "upper_scales": (scales * _LOWER).astype(np.float32),
        "lower_scales": scales.astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def _find_embedding(graph: ir.Graph) -> _Embedding | None:
    chain = [graph.inputs[0]]
    nodes: list[ir.Node] = []
    for op_type in ("Cast", "Sub", "Mul", "Transpose", "Conv", "Reshape", "Transpose"):
        below = [node for node in consumers(chain[-1]) if node.op_type == op_type]
        if len(below) != 1:
            return None
        nodes.append(below[0])
        chain.append(below[0].outputs[0])
    _, sub, mul, to_planes, conv, _, to_tokens = nodes
    constants = [node.inputs[index] for node, index in ((sub, 1), (mul, 1), (conv, 1))]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if any(value is None or not is_constant(value) for value in constants):
        return None
    mean, factor, kernel = (array_of(value) for value in constants if value is not None)
    has_form = (
        list(to_planes.attributes["perm"].as_ints()) == [0, 3, 1, 2]
        and list(to_tokens.attributes["perm"].as_ints()) == [0, 2, 1]
        and _lies_side_by_side(conv, kernel, graph.inputs[0])
    )
    if not has_form:
        return None
    return _Embedding(
        np.broadcast_to(mean.reshape(-1), kernel.shape[1]),
        np.broadcast_to(factor.reshape(-1), kernel.shape[1]),
        kernel,
        np.zeros(len(kernel)) if bias is None else array_of(bias),
        to_planes.outputs[0],
        to_tokens,
    )


def _lies_side_by_side(conv: ir.Node, kernel: Array, pixels: ir.Value) -> bool:
    """Say whether the windows of `conv` cover the image once, without a border."""
    size = kernel.shape[2:]
    strides, pads, group = (conv.attributes.get(name) for name in ("strides", "pads", "group"))
    sides = tuple(pixels.shape[1:3]) if pixels.shape is not None else ()
    return (
        strides is not None
        and tuple(strides.as_ints()) == size
        and (pads is None or not any(pads.as_ints()))
        and (group is None or group.as_int() == 1)
        and len(sides) == 2
        and all(isinstance(n, int) and n % k == 0 for n, k in zip(sides, size, strict=True))
    )
