"""What single nodes do to a residual stream: norms, movements that leave channels in place."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edge_vit.graph.walk import (
    Array,
    array_of,
    array_shape,
    consumers,
    data_input,
    is_constant,
    is_movement,
    is_over_last_axis,
    scalar_of,
)


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNormalization of one operator, or an RMSNorm of several.

    Attributes:
        input: (..., channels).
        output: gain and bias included.
        node: that holds the gain: the LayerNormalization, or the last Mul of an RMSNorm.
        gain: index of the gain among the inputs of `node`.
        bias: index of the bias; None where there is none.
        nodes: those of the norm that read `input`.
    """

    input: ir.Value
    output: ir.Value
    node: ir.Node
    gain: int
    bias: int | None
    nodes: frozenset[ir.Node]


def norm_of(value: ir.Value, reader: ir.Node) -> Norm | None:
    """Return the norm over the last axis of `value` that `reader` is part of, or None."""
    shape = value.shape
    if shape is None or not isinstance(shape[-1], int):
        return None
    if reader.op_type == "LayerNormalization":
        return _layer_norm(reader) if is_over_last_axis(reader) else None
    for product in consumers(value):
        norm = _rms_norm(value, product)
        if norm is not None and reader in norm.nodes:
            return norm
    return None


def norm_above(value: ir.Value) -> Norm | None:
    """Return the norm whose output is `value`, or None."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        return norm_of(data_input(node), node)
    for operand in node.inputs if node.op_type == "Mul" else ():
        inner = operand.producer() if operand is not None else None
        for source in inner.inputs if inner is not None else ():
            norm = _rms_norm(source, inner) if source is not None and inner is not None else None
            if norm is not None and norm.output is value:
                return norm
    return None


def _layer_norm(node: ir.Node) -> Norm | None:
    constants = node.inputs[1:]
    if not constants or any(v is not None and not is_constant(v) for v in constants):
        return None
    bias = 2 if len(node.inputs) > 2 and node.inputs[2] is not None else None
    return Norm(data_input(node), node.outputs[0], node, 1, bias, frozenset([node]))


def _rms_norm(value: ir.Value, product: ir.Node) -> Norm | None:
    """Return the RMSNorm whose product of `value` and one over its size is `product`.

    ``x * (1 / sqrt(mean(x ** 2) + eps)) * gain``, or divided by the root.
    """
    if product.op_type not in ("Mul", "Div") or len(product.inputs) != 2:
        return None
    first, second = product.inputs
    size = second if first is value else first if product.op_type == "Mul" else None
    if size is None or (first is not value and second is not value):
        return None
    node = size.producer()
    if product.op_type == "Mul":
        if node is None or node.op_type != "Reciprocal":
            return None
        node = data_input(node).producer()
    if node is None or node.op_type != "Sqrt":
        return None
    node = data_input(node).producer()
    if node is None or node.op_type != "Add":
        return None
    mean = next((v for v in node.inputs if v is not None and not is_constant(v)), None)
    node = mean.producer() if mean is not None else None
    if node is None or node.op_type != "ReduceMean" or _reduced(node) not in ([-1], [_last(value)]):
        return None
    square = data_input(node).producer()
    if square is None or not _squares(square, value):
        return None
    uses = tuple(product.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Mul" or product.outputs[0].is_graph_output():
        return None
    node, index = uses[0].node, 1 - uses[0].idx
    gain = node.inputs[index]
    if gain is None or not is_constant(gain) or len(array_shape(gain)) > 1:
        return None
    return Norm(value, node.outputs[0], node, index, None, frozenset([square, product]))


def _squares(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type == "Pow":
        return data_input(node) is value and scalar_of(node.inputs[1]) == 2
    return node.op_type == "Mul" and all(operand is value for operand in node.inputs)


def _reduced(node: ir.Node) -> list[int] | None:
    """Return the axes that a ReduceMean averages over; None where they are not known."""
    axes = node.attributes.get("axes")
    if axes is not None:
        return list(axes.as_ints())
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None or not is_constant(given):
        return None
    return [int(axis) for axis in array_of(given).reshape(-1)]


def _last(value: ir.Value) -> int:
    return len(value.shape) - 1 if value.shape is not None else -1


def is_last_axis(value: ir.Value, width: int) -> bool:
    """Say whether the last axis of `value` is known to have `width` elements."""
    return value.shape is not None and len(value.shape) > 0 and value.shape[-1] == width


def keeps_last_axis(node: ir.Node) -> bool:
    """Say whether `node` moves or averages tokens of its first input, each channel by itself."""
    value = data_input(node)
    if node.op_type == "ReduceMean":
        axes, last = _reduced(node), _last(value)
        return bool(axes) and not {-1, last}.intersection(axes or ())
    if not is_movement(node):
        return False
    return all(moved_axis(node, output, _last(output)) == -1 for output in node.outputs)


def moved_axis(node: ir.Node, output: ir.Value, axis: int) -> int | None:
    """Return where the axis `axis` of `output` lies in the first input of `node`.

    Counted from the end; None where that axis is cut, merged with others, or not known.
    """
    value = data_input(node)
    before = array_shape(value) if is_constant(value) else value.shape
    after = output.shape
    if before is None or after is None:
        return None
    rank = len(before)
    if node.op_type == "Transpose":
        perm = node.attributes.get("perm")
        order = list(perm.as_ints()) if perm is not None else list(range(rank))[::-1]
        return order[axis] - rank
    if node.op_type in ("Identity", "Expand"):
        return axis - len(after)
    if node.op_type == "Gather":
        return _gathered_axis(node, rank, len(after), axis)
    if node.op_type == "Split":
        at = node.attributes.get_int("axis", 0) % rank
        return None if at == axis else axis - rank
    if node.op_type == "Slice":
        axes = node.inputs[3] if len(node.inputs) > 3 else None
        if axes is None or any(int(a) % rank == axis for a in array_of(axes).reshape(-1)):
            return None
        return axis - rank
    return _reshaped_axis(list(before), list(after), axis)


def _gathered_axis(node: ir.Node, rank: int, rank_after: int, axis: int) -> int | None:
    at, inner = node.attributes.get_int("axis", 0) % rank, rank_after - rank + 1
    if at <= axis < at + inner:
        return None
    return axis - rank if axis < at else axis - rank_after


def _reshaped_axis(before: list[object], after: list[object], axis: int) -> int | None:
    """Return the axis of a reshaped array that has as many elements, and as many behind it."""
    behind = _product(after[axis + 1 :])
    for index in range(len(before)):
        if before[index] == after[axis] and behind and _product(before[index + 1 :]) == behind:
            return index - len(before)
    return None


def _product(dims: list[object]) -> int:
    """Return the product of `dims`, 0 where one is not known."""
    product = 1
    for dim in dims:
        product *= dim if isinstance(dim, int) else 0
    return product


def per_channel(node: ir.Node, axis: int, width: int) -> int | None:
    """Return which input of the Mul `node` is a constant that differs by channel alone.

    Args:
        node: a product.
        axis: of its output, from the end, along which the channels lie.
        width: how many there are.
    """
    for index, value in enumerate(node.inputs):
        if value is None or not is_constant(value):
            continue
        dims = array_shape(value)
        if len(dims) >= -axis and dims[axis] == width and _size(dims) == width:
            return index
    return None


def _size(dims: tuple[int, ...]) -> int:
    return _product(list(dims))


def gain_of(norm: Norm, width: int) -> Array:
    """Return the gain of `norm`, (width,)."""
    return _vector(norm, norm.gain, width)


def bias_of(norm: Norm, width: int) -> Array | None:
    """Return the bias of `norm`, (width,); None where it has none."""
    return None if norm.bias is None else _vector(norm, norm.bias, width)


def _vector(norm: Norm, index: int, width: int) -> Array:
    value = norm.node.inputs[index]
    assert value is not None
    flat = array_of(value).reshape(-1)
    return flat.repeat(width) if flat.size == 1 else flat
