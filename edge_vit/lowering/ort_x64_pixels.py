"""The patch embedding as ONNX Runtime does it fastest on x86: pixels by weights, in integers.

``(pixels - mean) / std`` is folded into the weights. Patches are cut out of the image and go into
the product as they are, uint8. A weight has 16 bits, in two products of INT8: the upper half and
the lower one. That is nearer to float32 than float16 is, and takes a third of the time of float32.

Operator: ``com.microsoft.MatMulIntegerToFloat``,
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.edit import add_constant, new_node
from edge_vit.graph.walk import Array

DOMAIN = "com.microsoft"
PRODUCT = "MatMulIntegerToFloat"
_LOWER = 256  # levels of the lower half of a weight


@dataclass(frozen=True)
class _Embedding:
    mean: Array  # (C,), subtracted from the pixels
    factor: Array  # (C,), that they are multiplied with afterwards
    kernel: Array  # (width, C, patch, patch), of windows that lie side by side
    bias: Array  # (width,)
    planes: ir.Value  # the pixels as the convolution reads them, (batch, C, H, W)
    tokens: ir.Node  # that makes (batch, patches, width)


def fold_pixels(graph: ir.Graph) -> bool:
    """Let products of pixels make the tokens of `graph`; return whether it has the form."""
    pixels, found = graph.inputs[0], _find_embedding(graph)
    if found is None:
        return False
    _, height, width, channels = (
        int(n) if isinstance(n, int) else -1 for n in walk.dims_of(pixels)
    )
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
        operands = [values[key] for key in inputs.split()]
        domain = DOMAIN if op_type == PRODUCT else ""
        node = new_node(op_type, f"embed/pixels/{name}", operands, attributes, domain)
        values[name] = node.outputs[0]
        graph.insert_before(found.tokens, node)
    found.tokens.outputs[0].replace_all_uses_with(values["tokens"])
    for node in filter(_asks_for_batch, list(walk.consumers(found.planes))):
        node.replace_input_with(0, pixels)
    return True


_STEPS: tuple[tuple[str, str, str, dict[str, ir.Attr]], ...] = (
    ("rows", "Reshape", "pixels cut", {}),
    ("patches", "Transpose", "rows", {"perm": ir.AttrInt64s("perm", [0, 1, 3, 2, 4])}),
    ("flattened", "Reshape", "patches flat", {}),
    ("upper", PRODUCT, "flattened upper_weight one upper_scales zero zeros bias", {}),
    ("lower", PRODUCT, "flattened lower_weight one lower_scales zero zeros", {}),
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
    found = next((nodes for chain in _CHAINS if (nodes := _follow(graph, chain))), None)
    if found is None:
        return None
    _, sub, mul, to_planes, conv, _, last = found
    constants = [walk.data_input(sub, 1), walk.data_input(mul, 1), walk.data_input(conv, 1)]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if not all(map(walk.is_constant, constants)):
        return None
    mean, factor, kernel = map(walk.array_of, constants)
    num_patches = _num_patches(conv, kernel, graph.inputs[0])
    if not num_patches or walk.dims_of(last.outputs[0])[1:] != (num_patches, len(kernel)):
        return None
    return _Embedding(
        np.broadcast_to(mean.reshape(-1), kernel.shape[1]),
        np.broadcast_to(factor.reshape(-1), kernel.shape[1]),
        kernel,
        np.zeros(len(kernel)) if bias is None else walk.array_of(bias),
        to_planes.outputs[0],
        last,
    )


_TO_PLANES = (("Cast", ()), ("Sub", ()), ("Mul", ()), ("Transpose", (0, 3, 1, 2)), ("Conv", ()))
_CHAINS = (
    (*_TO_PLANES, ("Reshape", ()), ("Transpose", (0, 2, 1))),
    (*_TO_PLANES, ("Transpose", (0, 2, 3, 1)), ("Reshape", ())),
)
"""What leads from pixels to tokens: operators, and the order of axes that they make."""


def _follow(graph: ir.Graph, chain: Sequence[tuple[str, tuple[int, ...]]]) -> list[ir.Node]:
    """Return the nodes of `chain` from the input of `graph` on, or none."""
    nodes: list[ir.Node] = []
    value = graph.inputs[0]
    for op_type, perm in chain:
        below = [node for node in walk.consumers(value) if not _asks_for_batch(node)]
        if len(below) != 1 or below[0].op_type != op_type:
            return []  # where others read it too, it is computed all the same
        if perm and walk.permutation(below[0]) != perm:
            return []
        nodes.append(below[0])
        value = below[0].outputs[0]
    return nodes


def _asks_for_batch(node: ir.Node) -> bool:
    """Return whether `node` gives the size of the first axis, and nothing else."""
    ends = [node.attributes.get_int(name, -1) for name in ("start", "end")]
    return node.op_type == "Shape" and ends == [0, 1]


def _num_patches(conv: ir.Node, kernel: Array, pixels: ir.Value) -> int:
    """Return how many windows of `conv` cover the image once, without a border; 0 where not so."""
    size, attributes = kernel.shape[2:], conv.attributes
    if (
        tuple(attributes.get_ints("strides", ())) != size
        or any(attributes.get_ints("pads", ()))
        or set(attributes.get_ints("dilations", (1,))) != {1}
        or attributes.get_int("group", 1) != 1
    ):
        return 0
    sides = zip(walk.dims_of(pixels)[1:3], size, strict=True)
    counts = [n // k for n, k in sides if isinstance(n, int) and n % k == 0]
    return counts[0] * counts[1] if len(counts) == 2 else 0
