"""Finds the constants that each channel of an activation can be scaled by, and shifted.

An activation's channels are dividable where something in front of it multiplies every one of them
by a number of its own: the gain of a norm, whatever the norm is written as, or the columns of a
linear layer. Between those and the activation may stand what treats channels apart and keeps a
positive factor: a Split, attention (which mixes tokens, never channels), the gate of a gated MLP, a
ReLU, one number that multiplies all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from edge_vit.graph.walk import (
    array_of,
    array_shape,
    consumers,
    data_input,
    find_linear,
    is_constant,
    other_operand,
    scaled_by,
)


@dataclass(frozen=True)
class Handle:
    """The part of a constant that belongs to the channels of an activation.

    Attributes:
        node: that reads the constant.
        index: as which of its inputs.
        start: where the channels begin in the constant's last axis.
    """

    node: ir.Node
    index: int
    start: int


@dataclass(frozen=True)
class ChannelSource:
    """What the channels of an activation can be scaled by, without any other change.

    Attributes:
        handles: divide them all by s, and the activation is divided by s.
        offset: the handle that is added last, from which a constant per channel can be subtracted
            so that the activation is lower by it; None where there is none.
        matmul: of the linear layer whose columns are among the handles, or None.
    """

    handles: tuple[Handle, ...]
    offset: Handle | None = None
    matmul: ir.Node | None = None

    @property
    def start(self) -> int:
        """Where the channels begin among the columns of `matmul`."""
        return self.handles[-1].start


def find_channel_source(
    value: ir.Value, width: int, start: int = 0, *, is_shiftable: bool = True
) -> ChannelSource | None:
    """Return what scales channels of `value` and nothing else, or None where nothing does.

    Who reads `value` is the caller's to check.

    Args:
        value: an activation, (..., channels).
        width: how many of its channels; at least 2.
        start: the first of them.
        is_shiftable: look for an offset too.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        return _norm(node, width, start, is_shiftable)
    if node.op_type == "MatMul" and find_linear(node) is not None:
        handle = _handle(node, 1, width, start)
        return None if handle is None else ChannelSource((handle,), matmul=node)
    if node.op_type in ("Mul", "Add"):
        for index, constant in enumerate(node.inputs):
            handle = _handle(node, index, width, start)
            if handle is None or constant is None:
                continue
            if node.op_type == "Mul":
                return ChannelSource((handle,))
            rest = _above(other_operand(node, constant), width, start)
            offset = handle if is_shiftable else None
            if rest is None:
                return None
            return replace(rest, handles=(handle, *rest.handles), offset=offset)
    scaled = scaled_by(node)
    if scaled is not None or node.op_type == "Relu":
        return _above(scaled[0] if scaled else data_input(node), width, start)
    if node.op_type == "Mul":
        found = (_above(operand, width, start) for operand in node.inputs)
        return next((source for source in found if source is not None), None)
    if node.op_type == "Split":
        return _through_split(node, value, width, start, is_shiftable)
    if node.op_type == "Slice":
        return _through_slice(node, width, start, is_shiftable)
    return _through_attention(node, width, start, is_shiftable)


def _above(
    value: ir.Value | None, width: int, start: int, *, is_shiftable: bool = False
) -> ChannelSource | None:
    """Return the source of a `value` on the way, which one node alone may read."""
    if value is None or not _is_alone(value):
        return None
    return find_channel_source(value, width, start, is_shiftable=is_shiftable)


def _handle(node: ir.Node, index: int, width: int, start: int) -> Handle | None:
    """Return a constant input of `node` that holds a number for each channel."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not is_constant(value):
        return None
    channels = (array_shape(value) or (1,))[-1]
    return Handle(node, index, start) if channels >= start + width else None


def _norm(node: ir.Node, width: int, start: int, is_shiftable: bool) -> ChannelSource | None:
    gain, bias = (_handle(node, index, width, start) for index in (1, 2))
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if gain is None or has_bias != (bias is not None):
        return None
    handles = (gain,) if bias is None else (gain, bias)
    return ChannelSource(handles, bias if is_shiftable else None)


def _through_split(
    node: ir.Node, value: ir.Value, width: int, start: int, is_shiftable: bool
) -> ChannelSource | None:
    sizes, place = _last_axis_sizes(node), node.outputs.index(value)
    if sizes is None or sizes[place] < start + width:
        return None
    start += sum(sizes[:place])
    return _above(data_input(node), width, start, is_shiftable=is_shiftable)


def _last_axis_sizes(split: ir.Node) -> list[int] | None:
    """Return into how many channels each `split` divides the last axis; None for another axis."""
    shape, axis = data_input(split).shape, split.attributes.get_int("axis", 0)
    if axis != -1 and (shape is None or axis != len(shape) - 1):
        return None
    given = split.inputs[1] if len(split.inputs) > 1 else None
    if given is not None:
        return array_of(given).tolist() if is_constant(given) else None
    whole, count = shape[-1] if shape is not None else None, len(split.outputs)
    return [whole // count] * count if isinstance(whole, int) and whole % count == 0 else None


def _through_slice(
    node: ir.Node, width: int, start: int, is_shiftable: bool
) -> ChannelSource | None:
    """Return the source where the other readers are slices too, and none has a channel of ours."""
    mine, whole = _last_axis_slice(node), data_input(node)
    if mine is None or len(mine) < start + width or whole.is_graph_output():
        return None
    first = mine.start + start
    for reader in consumers(whole):
        theirs = _last_axis_slice(reader)
        if theirs is None:
            return None
        if reader is not node and theirs.start < first + width and first < theirs.stop:
            return None
    return find_channel_source(whole, width, first, is_shiftable=is_shiftable)


def _last_axis_slice(node: ir.Node) -> range | None:
    """Return the channels that a Slice of the last axis alone takes, or None for another node."""
    shape = data_input(node).shape
    if node.op_type != "Slice" or shape is None or not isinstance(shape[-1], int):
        return None
    constants = [v for v in node.inputs[1:] if v is not None and is_constant(v)]
    if len(constants) not in (3, 4) or len(constants) != len(node.inputs) - 1:
        return None
    numbers = [array_of(constant).tolist() for constant in constants]
    if any(len(number) != 1 for number in numbers):
        return None
    start, stop, axis, step = (number[0] for number in (*numbers, [1])[:4])
    if axis not in (-1, len(shape) - 1) or step != 1:
        return None
    return range(*slice(start, stop).indices(shape[-1]))


def _through_attention(
    node: ir.Node, width: int, start: int, is_shiftable: bool
) -> ChannelSource | None:
    """Return the source of the values of the attention whose heads `node` puts side by side.

    Values go to heads by Reshape and Transpose and come back by Transpose and Reshape, so that both
    sides have the channels in one order. A constant per channel passes where each row of the
    probabilities sums to 1.
    """
    context = _product_of_heads(node)
    if context is None:
        return None
    back = _sole(context.inputs[1], "Transpose")
    spread = _sole(data_input(back), "Reshape") if back is not None else None
    if back is None or spread is None or not _swaps_heads(back):
        return None
    apart, merged = _target(spread), _target(node)
    if len(apart) != 4 or len(merged) != 3 or apart[2] * apart[3] != merged[2]:
        return None
    probabilities = data_input(context).producer()
    sums_to_one = (
        probabilities is not None
        and probabilities.op_type == "Softmax"
        and probabilities.attributes.get_int("axis", -1) in (-1, 3)
    )
    is_shiftable = is_shiftable and sums_to_one
    return _above(data_input(spread), width, start, is_shiftable=is_shiftable)


def _product_of_heads(node: ir.Node) -> ir.Node | None:
    """Return the MatMul of the ``MatMul -> Transpose -> Reshape`` that ends in `node`."""
    if node.op_type != "Reshape":
        return None
    transpose = _sole(data_input(node), "Transpose")
    if transpose is None or not _swaps_heads(transpose):
        return None
    return _sole(data_input(transpose), "MatMul")


def _sole(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node of that type that makes `value`, where one node alone reads it."""
    node = value.producer() if value is not None and _is_alone(value) else None
    return node if node is not None and node.op_type == op_type else None


def _is_alone(value: ir.Value) -> bool:
    return len(tuple(value.uses())) == 1 and not value.is_graph_output()


def _target(reshape: ir.Node) -> list[int]:
    """Return the shape that `reshape` is told, empty where it is no constant."""
    shape = reshape.inputs[1]
    return array_of(shape).tolist() if shape is not None and is_constant(shape) else []


def _swaps_heads(transpose: ir.Node) -> bool:
    """Say whether tokens and heads of (batch, tokens, heads, channels) change places, or back."""
    return list(transpose.attributes["perm"].as_ints()) == [0, 2, 1, 3]
