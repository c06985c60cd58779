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

from edge_vit.graph import walk


@dataclass(frozen=True)
class ChannelSlice:
    """The channels of an activation in a constant: from `start` on in its last axis.

    The constant is the input `index` of `node`.
    """

    node: ir.Node
    index: int
    start: int


@dataclass(frozen=True)
class ChannelSource:
    """What the channels of an activation can be scaled by, without any other change.

    Attributes:
        offset: the slice that is added last, from which a constant per channel can be subtracted
            so that the activation is lower by it; None where there is none.
    """

    slices: tuple[ChannelSlice, ...]  # divide them all by s, and the activation is divided by s
    offset: ChannelSlice | None = None
    matmul: ir.Node | None = None  # of the linear layer whose columns are among the slices, or None

    @property
    def start(self) -> int:
        """Where the channels begin among the columns of `matmul`."""
        return self.slices[-1].start


def find_channel_source(
    value: ir.Value, width: int, start: int = 0, *, is_shiftable: bool = True
) -> ChannelSource | None:
    """Return what scales `width` channels of `value` from `start` on and nothing else, or None.

    `value` is an activation, (..., channels), at least 2 of them; its readers are the caller's to
    check. With `is_shiftable` an offset is looked for, too.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        return _norm(node, width, start, is_shiftable)
    if walk.find_linear(node) is not None:
        columns = _slice(node, 1, width, start)
        return None if columns is None else ChannelSource((columns,), matmul=node)
    if node.op_type in ("Mul", "Add"):
        for index, constant in enumerate(node.inputs):
            mine = _slice(node, index, width, start)
            if mine is None or constant is None:
                continue
            if node.op_type == "Mul":
                return ChannelSource((mine,))
            rest = _above(walk.other_operand(node, constant), width, start)
            offset = mine if is_shiftable else None
            return rest and replace(rest, slices=(mine, *rest.slices), offset=offset)
        if node.op_type == "Add" and len(walk.operands(node)) == 2:
            return _modulated(node, width, start, is_shiftable)
    scaled = walk.scaled_by(node)
    if scaled is not None or node.op_type == "Relu":
        return _above(scaled[0] if scaled else walk.data_input(node), width, start)
    if node.op_type == "Mul":
        found = (_above(operand, width, start) for operand in node.inputs)
        return next((source for source in found if source is not None), None)
    if node.op_type == "Split":
        sizes, place = _last_axis_sizes(node), node.outputs.index(value)
        if sizes is None or sizes[place] < start + width:
            return None
        start += sum(sizes[:place])
        return _above(walk.data_input(node), width, start, is_shiftable=is_shiftable)
    if node.op_type == "Unsqueeze" and _keeps_last_axis(node):
        return _above(walk.data_input(node), width, start, is_shiftable=is_shiftable)
    if node.op_type == "Slice":
        return _through_slice(node, width, start, is_shiftable)
    return _through_attention(node, width, start, is_shiftable)


def _modulated(add: ir.Node, width: int, start: int, is_shiftable: bool) -> ChannelSource | None:
    """Return the source of ``norm * (1 + scale) + shift``, where an image has its own two vectors.

    Both summands are divided; the constant is taken from the one that is the same for all tokens.
    """
    tokens, shift = add.inputs
    if walk.dims_of(walk.data_input(add))[-2:-1] == (1,):
        tokens, shift = shift, tokens
    if shift is None or walk.dims_of(shift)[-2:-1] != (1,):
        return None
    scaled = _above(tokens, width, start)
    moved = _above(shift, width, start, is_shiftable=is_shiftable)
    if scaled is None or moved is None:
        return None
    return ChannelSource((*scaled.slices, *moved.slices), moved.offset)


def _keeps_last_axis(unsqueeze: ir.Node) -> bool:
    """Return whether the new axes of an Unsqueeze lie before the last one."""
    axes = unsqueeze.inputs[1] if len(unsqueeze.inputs) > 1 else None
    rank = len(walk.dims_of(unsqueeze.outputs[0]))
    return walk.is_constant(axes) and not {-1, rank - 1} & set(walk.array_of(axes).tolist())


def _above(
    value: ir.Value | None, width: int, start: int, *, is_shiftable: bool = False
) -> ChannelSource | None:
    """Return the source of a `value` on the way, which one node alone may read."""
    if value is None or not walk.is_read_once(value):
        return None
    return find_channel_source(value, width, start, is_shiftable=is_shiftable)


def _slice(node: ir.Node, index: int, width: int, start: int) -> ChannelSlice | None:
    """Return a constant input of `node` that holds a number for each channel."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if not walk.is_constant(value) or (walk.array_shape(value) or (1,))[-1] < start + width:
        return None
    return ChannelSlice(node, index, start)


def _norm(node: ir.Node, width: int, start: int, is_shiftable: bool) -> ChannelSource | None:
    gain, bias = (_slice(node, index, width, start) for index in (1, 2))
    has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
    if gain is None or has_bias != (bias is not None):
        return None
    slices = (gain,) if bias is None else (gain, bias)
    return ChannelSource(slices, bias if is_shiftable else None)


def _last_axis_sizes(split: ir.Node) -> list[int] | None:
    """Return into how many channels each `split` divides the last axis; None for another axis."""
    dims, axis = walk.dims_of(walk.data_input(split)), split.attributes.get_int("axis", 0)
    if axis != -1 and (not dims or axis != len(dims) - 1):
        return None
    given = split.inputs[1] if len(split.inputs) > 1 else None
    if given is not None:
        return walk.array_of(given).tolist() if walk.is_constant(given) else None
    whole, count = dims[-1] if dims else None, len(split.outputs)
    return [whole // count] * count if isinstance(whole, int) and whole % count == 0 else None


def _through_slice(
    node: ir.Node, width: int, start: int, is_shiftable: bool
) -> ChannelSource | None:
    """Return the source where the other readers are slices too, and none has a channel of ours."""
    mine, whole = _last_axis_slice(node), walk.data_input(node)
    if mine is None or len(mine) < start + width or whole.is_graph_output():
        return None
    first = mine.start + start
    for reader in walk.consumers(whole):
        theirs = _last_axis_slice(reader)
        if theirs is None:
            return None
        if reader is not node and theirs.start < first + width and first < theirs.stop:
            return None
    return find_channel_source(whole, width, first, is_shiftable=is_shiftable)


def _last_axis_slice(node: ir.Node) -> range | None:
    """Return the channels that a Slice of the last axis alone takes, or None for another node."""
    dims, bounds = walk.dims_of(walk.data_input(node)), node.inputs[1:]
    if node.op_type != "Slice" or not dims or not isinstance(dims[-1], int):
        return None
    if len(bounds) not in (3, 4) or not all(map(walk.is_constant, bounds)):
        return None
    numbers = [walk.array_of(constant).tolist() for constant in bounds]
    if any(len(number) != 1 for number in numbers):
        return None
    start, stop, axis, step = (number[0] for number in (*numbers, [1])[:4])
    if axis not in (-1, len(dims) - 1) or step != 1:
        return None
    return range(*slice(start, stop).indices(dims[-1]))


def _through_attention(
    node: ir.Node, width: int, start: int, is_shiftable: bool
) -> ChannelSource | None:
    """Return the source of the values of the attention whose heads `node` puts side by side.

    Values go to heads by Reshape and Transpose and come back by Transpose and Reshape, so that both
    sides have the channels in one order. A constant per channel passes where each row of the
    probabilities sums to 1.
    """
    back = _sole_maker(walk.data_input(node), "Transpose") if node.op_type == "Reshape" else None
    context = _sole_maker(walk.data_input(back), "MatMul") if back is not None else None
    apart = _sole_maker(context.inputs[1], "Transpose") if context is not None else None
    spread = _sole_maker(walk.data_input(apart), "Reshape") if apart is not None else None
    if back is None or context is None or apart is None or spread is None:
        return None
    if not walk.permutation(back) == walk.permutation(apart) == (0, 2, 1, 3):
        return None
    heads, merged = _target(spread), _target(node)
    if len(heads) != 4 or len(merged) != 3 or heads[2] * heads[3] != merged[2]:
        return None
    softmax = walk.made_by(walk.data_input(context), "Softmax")
    sums_to_one = softmax is not None and walk.is_over_last_axis(softmax)
    return _above(walk.data_input(spread), width, start, is_shiftable=is_shiftable and sums_to_one)


def _sole_maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node of that type that makes `value`, where one node alone reads it."""
    return walk.made_by(value, op_type) if value is not None and walk.is_read_once(value) else None


def _target(reshape: ir.Node) -> list[int]:
    """Return the shape that `reshape` is given, empty where it is no constant."""
    shape = reshape.inputs[1]
    return walk.array_of(shape).tolist() if walk.is_constant(shape) else []
