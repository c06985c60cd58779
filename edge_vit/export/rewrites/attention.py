"""Writes every self-attention in one form, whatever moves its exporter made of it.

An exporter may merge or separate queries, keys and values, interleave heads, flatten tokens, swap
axes, split by Gather. Instead of knowing each way, the positions of the elements are sent through
the moves themselves: that tells which weight column each query, key and value element comes from,
and the weights are arranged to say the same in the canonical order. What is done to queries and
keys beyond moves, such as rotary positions or a norm of each head, stays as its exporter wrote it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.export.rewrites.moves import Moves, Stretch, move, trace_stretch
from edge_vit.export.rewrites.probe import find_shapes
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.graph.walk import (
    Array,
    Linear,
    adds_dimensions,
    array_of,
    consumers,
    data_input,
    is_constant,
    is_movement,
    is_over_last_axis,
    other_operand,
    scalar_of,
    scaled_by,
)

_HEADS_FIRST, _TOKENS_FIRST = (0, 2, 1, 3), (0, 1, 2, 3)
"""How (batch, tokens, heads, channels) lies in the value that a stretch starts from."""

_PROBE_BATCH = 2  # with 1, a swap of images and tokens would not show


class _NotCanonical(Exception):  # noqa: N818
    """This attention does more than the canonical form can say; its message says what."""


@dataclass(frozen=True)
class _Projection:
    """A linear layer in canonical order: weight (K, heads * size), bias (heads * size,).

    Attributes:
        stretch: what leads from it to the attention.
        layout: of the value that the stretch starts from; None where its heads are not apart yet.
    """

    weight: Array
    bias: Array
    num_heads: int
    stretch: Stretch
    layout: tuple[int, ...] | None


def rewrite_attentions(model: ir.Model) -> tuple[str, ...]:
    """Bring each block's attention into the canonical form; return why some were left as they are.

    The form: one MatMul for queries, keys and values with the attention scale folded into the
    queries, Split, Reshape to heads, Transpose, MatMul, Softmax, MatMul, Transpose, Reshape,
    MatMul.
    """
    blocks = find_blocks(model.graph)
    if not blocks:
        return ()
    wanted: dict[ir.Value, None] = {}
    for block in blocks:
        outputs = [site.linear.output for site in block.sites if site.role in ("qkv", "proj")]
        inputs = [site.linear.input for site in block.sites if site.role in ("qkv", "proj")]
        context = block.attention.context.outputs[0]
        wanted.update(dict.fromkeys([block.root, context, *_operands(block), *outputs, *inputs]))
    shapes = find_shapes(model, list(wanted), _PROBE_BATCH)
    left: dict[str, list[int]] = {}
    for block in blocks:
        try:
            _rewrite(model.graph, block, shapes)
        except _NotCanonical as reason:
            left.setdefault(str(reason), []).append(block.index)
    model.graph.sort()  # a stretch that stayed comes behind what it starts from now
    return tuple(f"attention of block {_ranges(which)}: {why}" for why, which in left.items())


def _rewrite(graph: ir.Graph, block: Block, shapes: dict[ir.Value, tuple[int, ...]]) -> None:
    attention = block.attention
    if len(shapes[block.root]) != 3:
        raise _NotCanonical(f"tokens come as {shapes[block.root]}, not (batch, tokens, width)")
    operands = _operands(block)
    q, k, v = (
        _read_projection(block, operand, shapes, is_transposed=index == 1)
        for index, operand in enumerate(operands)
    )
    if not q.num_heads == k.num_heads == v.num_heads:
        raise _NotCanonical("queries, keys and values have different numbers of heads")
    scale, bias = _read_scores(attention.scores.outputs[0], data_input(attention.softmax))
    _check_probabilities(attention.softmax, data_input(attention.context))
    proj, output = _read_proj(block, shapes, v.num_heads)

    build = Builder(graph, block.linears("proj")[0].matmul)
    inside = np.float32(scale if q.stretch.is_linear else 1.0)
    weight = np.concatenate([q.weight * inside, k.weight, v.weight], axis=1)
    vector = np.concatenate([q.bias * inside, k.bias, v.bias])
    qkv = build.one("MatMul", block.root, build.constant(weight))
    if vector.any():
        qkv = build.one("Add", qkv, build.constant(vector.reshape(1, 1, -1)))
    widths = [p.weight.shape[1] for p in (q, k, v)]
    parts = build(
        "Split",
        qkv,
        build.constant(np.array(widths, np.int64)),
        attributes={"axis": -1},
        num_outputs=3,
    )
    query, key, value = (
        _lead_on(build, part, projection, operand, is_transposed=index == 1)
        for index, (part, projection, operand) in enumerate(
            zip(parts, (q, k, v), operands, strict=True)
        )
    )
    if inside != np.float32(scale):
        query = build.one("Mul", query, build.constant(np.float32(scale)))
    scores = build.one("MatMul", query, key)
    if bias is not None:
        scores = build.one("Add", scores, build.constant(bias))
    context = build.one("MatMul", build.one("Softmax", scores, axis=-1), value)
    merged = build.one(
        "Reshape",
        build.one("Transpose", context, perm=(0, 2, 1, 3)),
        build.constant(np.array([0, 0, widths[2]], np.int64)),
    )
    if proj.stretch.nodes:
        proj.stretch.start_from(merged)
        merged = block.linears("proj")[0].input
    result = build.one("MatMul", merged, build.constant(proj.weight))
    if proj.bias.any():
        result = build.one("Add", result, build.constant(proj.bias.reshape(1, 1, -1)))
    replace_value(output, result)


def _operands(block: Block) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return queries, keys and values as the attention reads them."""
    query, key = block.attention.scores.inputs
    value = block.attention.context.inputs[1]
    assert query is not None
    assert key is not None
    assert value is not None
    return query, key, value


def _lead_on(
    build: Builder,
    part: ir.Value,
    projection: _Projection,
    operand: ir.Value,
    *,
    is_transposed: bool,
) -> ir.Value:
    """Return what the attention reads, made of `part`, (batch, tokens, heads * channels)."""
    heads, stretch = projection.num_heads, projection.stretch
    value = part
    if projection.layout is not None:
        shape = np.array([0, 0, heads, projection.weight.shape[1] // heads], np.int64)
        value = build.one("Reshape", part, build.constant(shape))
        perm = (0, 2, 3, 1) if is_transposed and not stretch.nodes else projection.layout
        if perm != _TOKENS_FIRST:
            value = build.one("Transpose", value, perm=perm)
    if not stretch.nodes:
        return value
    stretch.start_from(value)
    return operand


def _read_projection(
    block: Block,
    operand: ir.Value,
    shapes: dict[ir.Value, tuple[int, ...]],
    *,
    is_transposed: bool,
) -> _Projection:
    """Return the linear layer behind `operand`, its columns in the order (head, channel)."""
    linears = {linear.output: linear for linear in block.linears("qkv")}
    stretch = trace_stretch(operand, linears)
    if stretch is None:
        raise _NotCanonical("queries, keys or values are made of more than one linear layer")
    linear, source = linears[stretch.source], stretch.source
    batch, tokens, width = shapes[block.root]
    num_heads, rest = divmod(math.prod(shapes[operand][:-2]), batch)
    if rest or not num_heads:
        raise _NotCanonical("attention across the groups that the tokens come in")
    positions = move(stretch.moves, shapes[source])
    if not stretch.nodes:
        positions = np.swapaxes(positions, -1, -2) if is_transposed else positions
        positions = positions.reshape(batch, num_heads, *positions.shape[-2:])
    elif len(shapes[operand]) != 4:
        raise _NotCanonical("heads are not apart from the batch")
    layout = _find_layout(positions, num_heads, tokens)
    if layout is not None:
        positions = positions.transpose(layout)  # either layout is its own inverse
    positions = positions.reshape(batch, tokens, -1)
    rows, columns = np.divmod(positions, linear.weight.shape[1])
    if (rows != rows[:, :, :1]).any() or (columns != columns[:1, :1]).any():
        raise _NotCanonical("heads mix tokens and channels")
    _check_rows(linear, block.root, shapes, rows[:, :, 0], width)
    order, scale = columns[0, 0], np.float32(stretch.factor)
    weight, bias = linear.weight[:, order] * scale, linear.bias[order] * scale
    return _Projection(weight, bias, num_heads, stretch, layout)


def _find_layout(positions: Array, num_heads: int, tokens: int) -> tuple[int, ...] | None:
    """Return how heads and tokens lie in `positions`, whose first axis is the batch."""
    shape = positions.shape
    if len(shape) == 4 and shape[1:3] == (num_heads, tokens):
        return _HEADS_FIRST
    if len(shape) == 4 and shape[1:3] == (tokens, num_heads):
        return _TOKENS_FIRST
    if len(shape) == 3 and shape[1] == tokens:
        return None
    if shape[-2] == tokens:
        raise _NotCanonical("several queries share a key and a value")
    raise _NotCanonical(f"attention over {shape[-2]} of {tokens} tokens")


def _check_rows(
    linear: Linear,
    root: ir.Value,
    shapes: dict[ir.Value, tuple[int, ...]],
    rows: Array,
    width: int,
) -> None:
    """Check that row ``rows[b, n]`` of the layer's input is token n of image b of `root`."""
    stretch = trace_stretch(linear.input, [root])
    if stretch is None or stretch.nodes or stretch.factor != 1.0:
        raise _NotCanonical("queries, keys and values have different inputs")
    positions = move(stretch.moves, shapes[root])
    if positions.size != math.prod(shapes[root]):
        raise _NotCanonical("a part of the tokens is read")
    positions = positions.reshape(-1, width)
    if (positions[rows.reshape(-1)].reshape(-1) != np.arange(positions.size)).any():
        raise _NotCanonical("tokens are reordered before the linear layer")


def _read_scores(product: ir.Value, value: ir.Value) -> tuple[float, Array | None]:
    """Return (scale, additive constant) between the product of q and k and the softmax."""
    scale, bias = 1.0, None
    while value is not product:
        node = value.producer()
        assert node is not None
        scaled = scaled_by(node)
        if scaled is not None:
            value, factor = scaled
            scale *= factor
        elif node.op_type == "Add" and bias is None:
            constants = [v for v in node.inputs if v is not None and is_constant(v)]
            if not constants:
                raise _NotCanonical("a computed bias on the attention scores")
            bias = array_of(constants[0]) * np.float32(scale)
            if adds_dimensions(*node.inputs):
                raise _NotCanonical("a bias of more dimensions than the attention scores")
            if bias.ndim and np.isneginf(bias).all(axis=-1).any():
                raise _NotCanonical("a mask that leaves a token no key")
            rest = other_operand(node, constants[0])
            assert rest is not None
            value = rest
        else:
            raise _NotCanonical(f"{node.op_type} on the attention scores")
    return scale, bias


def _check_probabilities(softmax: ir.Node, value: ir.Value) -> None:
    """Accept the softmax itself, or one guarded against rows without any score."""
    if not is_over_last_axis(softmax):
        raise _NotCanonical("softmax over another axis")
    probabilities = softmax.outputs[0]
    node = value.producer()
    if value is not probabilities and not (node and _is_guard(node, probabilities)):
        raise _NotCanonical(f"{node.op_type if node else 'nothing'} between softmax and values")


def _is_guard(node: ir.Node, probabilities: ir.Value) -> bool:
    """Say whether `node` is ``Where(IsNaN(probabilities), 0, probabilities)``."""
    if node.op_type != "Where" or node.inputs[2] is not probabilities:
        return False
    asked = node.inputs[0].producer() if node.inputs[0] is not None else None
    if asked is None or asked.op_type != "IsNaN" or data_input(asked) is not probabilities:
        return False
    return scalar_of(node.inputs[1]) == 0.0


def _read_proj(
    block: Block, shapes: dict[ir.Value, tuple[int, ...]], num_heads: int
) -> tuple[_Projection, ir.Value]:
    """Return the output layer, rows in the order (head, channel), and the value it becomes."""
    (linear,) = block.linears("proj")
    stretch = trace_stretch(linear.input, [block.attention.context.outputs[0]])
    if stretch is None:
        raise _NotCanonical("proj reads more than the attention")
    batch, tokens, _ = shapes[block.root]
    width, out_width = linear.weight.shape
    size = width // num_heads
    positions = move(stretch.moves, shapes[stretch.source])
    if positions.size != batch * tokens * width or positions.size != math.prod(
        shapes[stretch.source]
    ):
        raise _NotCanonical("proj reads a part of the attention")
    if stretch.nodes and positions.shape != (batch, tokens, width):
        raise _NotCanonical("more than moves between attention and proj")
    positions = positions.reshape(-1, width)
    images, heads, rows, channels = np.unravel_index(positions, (batch, num_heads, tokens, size))
    token = images * tokens + rows  # of each element of each row
    if (
        (token != token[:, :1]).any()
        or (heads != heads[:1]).any()
        or (channels != channels[:1]).any()
    ):
        raise _NotCanonical("proj mixes tokens and channels")
    order = heads[0] * size + channels[0]
    if stretch.nodes and ((order != np.arange(width)).any() or stretch.factor != 1.0):
        raise _NotCanonical("channels are reordered between attention and proj")
    weight = np.empty_like(linear.weight)
    weight[order] = linear.weight * np.float32(stretch.factor)
    row_of_token = np.argsort(token[:, 0])
    wanted = row_of_token.reshape(batch, tokens, 1) * out_width + np.arange(out_width)
    output = linear.output
    moves: Moves = []
    while True:
        positions = move(moves, shapes[linear.output])
        if positions.shape == wanted.shape and (positions == wanted).all():
            return _Projection(weight, linear.bias, num_heads, stretch, None), output
        uses = list(consumers(output))
        if len(uses) != 1 or not is_movement(uses[0]) or len(uses[0].outputs) != 1:
            raise _NotCanonical("tokens are reordered behind the attention")
        moves.append((uses[0], 0))
        output = uses[0].outputs[0]


def _ranges(numbers: list[int]) -> str:
    """Return ``0-3, 5`` for 0, 1, 2, 3, 5."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else str(g[0]) for g in groups)
