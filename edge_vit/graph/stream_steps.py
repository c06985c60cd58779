"""What single nodes do to a residual stream: norms, movements that leave channels in place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.walk import Array


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNormalization of one operator, or an RMSNorm of several, over the channels."""

    input: ir.Value
    output: ir.Value  # gain and bias included
    node: ir.Node  # that holds the gain: the LayerNormalization, or the last Mul of an RMSNorm
    gain: int  # which input of `node` it is
    bias: int | None
    nodes: frozenset[ir.Node]  # those of the norm that read `input`

    def gain_of(self, width: int) -> Array:
        """Return the gain, (width,)."""
        return self._vector(self.gain, width)

    def bias_of(self, width: int) -> Array | None:
        """Return the bias, (width,); None where there is none."""
        return None if self.bias is None else self._vector(self.bias, width)

    def _vector(self, index: int, width: int) -> Array:
        flat = walk.array_of(self.node.inputs[index]).reshape(-1)
        return flat.repeat(width) if flat.size == 1 else flat


def norm_of(value: ir.Value, reader: ir.Node) -> Norm | None:
    """Return the norm over the last axis of `value` that `reader` is part of, or None."""
    if not isinstance((walk.dims_of(value) or (None,))[-1], int):
        return None
    if reader.op_type == "LayerNormalization":
        return _layer_norm(reader) if walk.is_over_last_axis(reader) else None
    found = (_rms_norm(value, product) for product in walk.consumers(value))
    return next((norm for norm in found if norm is not None and reader in norm.nodes), None)


def norm_above(value: ir.Value) -> Norm | None:
    """Return the norm whose output is `value`, or None."""
    node = walk.made_by(value, "LayerNormalization", "Mul")
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        return norm_of(walk.data_input(node), node)
    for operand in node.inputs:
        inner = operand.producer() if operand is not None else None
        for source in walk.operands(inner) if inner is not None else ():
            norm = _rms_norm(source, inner) if inner is not None else None
            if norm is not None and norm.output is value:
                return norm
    return None


def _layer_norm(node: ir.Node) -> Norm | None:
    constants = node.inputs[1:]
    if not constants or any(v is not None and not walk.is_constant(v) for v in constants):
        return None
    bias = 2 if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return Norm(walk.data_input(node), node.outputs[0], node, 1, bias, frozenset([node]))


def _rms_norm(value: ir.Value, product: ir.Node) -> Norm | None:
    """Return the RMSNorm whose product of `value` and one over its size is `product`.

    ``x * (1 / sqrt(mean(x ** 2) + eps)) * gain``, or divided by the root.
    """
    if product.op_type not in ("Mul", "Div") or value not in product.inputs:
        return None
    if product.op_type == "Div" and walk.data_input(product) is not value:
        return None
    size = walk.other_operand(product, value)
    if product.op_type == "Mul":
        inverse = walk.made_by(size, "Reciprocal")
        size = walk.data_input(inverse) if inverse is not None else None
    root = walk.made_by(size, "Sqrt")
    shifted = walk.made_by(walk.data_input(root), "Add") if root is not None else None
    mean = walk.made_by(next(iter(walk.operands(shifted)), None), "ReduceMean") if shifted else None
    if mean is None or walk.reduced_axes(mean, is_kept=False) not in (
        [-1],
        [len(walk.dims_of(value)) - 1],
    ):
        return None
    square = walk.made_by(walk.data_input(mean), "Pow", "Mul")
    if square is None or not _squares(square, value):
        return None
    node = walk.sole_reader(product.outputs[0], "Mul")
    gain = walk.other_operand(node, product.outputs[0]) if node is not None else None
    if (
        node is None
        or gain is None
        or not walk.is_constant(gain)
        or len(walk.array_shape(gain)) > 1
    ):
        return None
    index = node.inputs.index(gain)
    return Norm(value, node.outputs[0], node, index, None, frozenset([square, product]))


def _squares(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type == "Pow":
        return walk.data_input(node) is value and walk.scalar_of(node.inputs[1]) == 2
    return all(operand is value for operand in node.inputs)


def keeps_last_axis(node: ir.Node) -> bool:
    """Return whether `node` moves or averages tokens of its first input, each channel by itself."""
    if node.op_type == "ReduceMean":
        axes, last = (
            walk.reduced_axes(node, is_kept=False),
            len(walk.dims_of(walk.data_input(node))) - 1,
        )
        return bool(axes) and not {-1, last}.intersection(axes or ())
    if not walk.is_movement(node):
        return False
    return all(moved_axis(node, out, len(walk.dims_of(out)) - 1) == -1 for out in node.outputs)


def moved_axis(node: ir.Node, output: ir.Value, axis: int) -> int | None:
    """Return where the axis `axis` of `output` lies in the first input of `node`.

    Counted from the end; None where that axis is cut, merged with others, or not known.
    """
    value = walk.data_input(node)
    before = walk.array_shape(value) if walk.is_constant(value) else value.shape
    if before is None or output.shape is None:
        return None
    rank, rank_after = len(before), len(output.shape)
    if node.op_type == "Transpose":
        return walk.permutation(node)[axis] - rank
    if node.op_type in ("Identity", "Expand"):
        return axis - rank_after
    at = node.attributes.get_int("axis", 0) % rank
    if node.op_type == "Gather":
        if at <= axis < at + rank_after - rank + 1:
            return None
        return axis - rank if axis < at else axis - rank_after
    if node.op_type == "Split":
        return None if at == axis else axis - rank
    if node.op_type == "Slice":
        axes = node.inputs[3] if len(node.inputs) > 3 else None
        if axes is None or any(int(a) % rank == axis for a in walk.array_of(axes).reshape(-1)):
            return None
        return axis - rank
    return _reshaped_axis(list(before), list(output.shape), axis)


def _reshaped_axis(before: list[object], after: list[object], axis: int) -> int | None:
    """Return the axis of a reshaped array that has as many elements, and as many behind it."""
    behind = _product(after[axis + 1 :])
    for index in range(len(before)):
        if before[index] == after[axis] and behind and _product(before[index + 1 :]) == behind:
            return index - len(before)
    return None


def _product(dims: list[object]) -> int:
    """Return the product of `dims`, 0 where one is not known."""
    return math.prod(dim if isinstance(dim, int) else 0 for dim in dims)


def per_channel(node: ir.Node, axis: int, width: int) -> int | None:
    """Return which input of the Mul `node` is a constant that differs by channel alone.

    The `width` channels lie along the `axis` of its output, counted from the end.
    """
    for index, value in enumerate(node.inputs):
        dims = walk.array_shape(value) if walk.is_constant(value) else ()
        if len(dims) >= -axis and dims[axis] == width and math.prod(dims) == width:
            return index
    return None
