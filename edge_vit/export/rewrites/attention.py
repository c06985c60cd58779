"""Writes every self-attention in one form, whatever moves its exporter made of it.

An exporter may merge or separate queries, keys and values, interleave heads, flatten tokens, swap
axes, split by Gather. Instead of knowing each way, the positions of the elements are sent through
the moves themselves: that shows which weight column each query, key and value element comes from,
and the weights are arranged to say the same in the canonical order. What is done to queries and
keys beyond moves, such as rotary positions or a norm of each head, stays as its exporter wrote it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.moves import Subgraph, move, trace_back
from edge_vit.export.rewrites.probe import make_probes
from edge_vit.graph import walk
from edge_vit.graph.edit import Builder, replace_value
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.graph.walk import Array, Linear

_HEADS_FIRST, _TOKENS_FIRST = (0, 2, 1, 3), (0, 1, 2, 3)
"""How (batch, tokens, heads, channels) lies in the value that a subgraph starts from."""

_PROBE_BATCH = 2  # with 1, a swap of images and tokens would not show

Shapes = dict[ir.Value, tuple[int, ...]]


class _NotCanonical(Exception):  # noqa: N818
    """This attention does more than the canonical form can express; its message tells what."""


@dataclass(frozen=True)
class _Projection:
    """A linear layer in canonical order: its columns, or rows, are (head, channel)."""

    weight: Array  # (K, heads * size), (heads * size, N) for the output layer
    bias: Array  # of its outputs
    num_heads: int  # heads of the attention
    way: Subgraph  # what leads from it to the attention, or from that to it
    layout: tuple[int, ...] | None  # of what `way` starts from; None where heads are not apart yet


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
        layers = (*block.linears("qkv"), *block.linears("proj"))
        ends = [value for layer in layers for value in (layer.output, layer.input)]
        context = block.attention.context.outputs[0]
        wanted.update(dict.fromkeys([block.root, context, *block.attention.operands, *ends]))
    (probe,) = make_probes(model, _PROBE_BATCH)
    shapes = probe.shapes(list(wanted))
    left: dict[str, list[int]] = {}
    for block in blocks:
        try:
            _rewrite(model.graph, block, shapes)
        except _NotCanonical as reason:
            left.setdefault(str(reason), []).append(block.index)
    model.graph.sort()  # a subgraph that stayed comes behind what it starts from now
    return tuple(f"attention of block {_ranges(which)}: {why}" for why, which in left.items())


def _rewrite(graph: ir.Graph, block: Block, shapes: Shapes) -> None:
    attention = block.attention
    if len(shapes[block.root]) != 3:
        raise _NotCanonical(f"tokens come as {shapes[block.root]}, not (batch, tokens, width)")
    projections = [
        _read_projection(block, operand, shapes, is_key=index == 1)
        for index, operand in enumerate(attention.operands)
    ]
    q, k, v = projections
    if not q.num_heads == k.num_heads == v.num_heads:
        raise _NotCanonical("queries, keys and values have different numbers of heads")
    scale, bias = _read_scores(attention.scores.outputs[0], walk.data_input(attention.softmax))
    _check_probabilities(attention.softmax, walk.data_input(attention.context))
    proj, output = _read_proj(block, shapes, v.num_heads)

    build = Builder(graph, block.linears("proj")[0].matmul)
    inside = np.float32(scale if q.way.is_linear else 1.0)
    weight = np.concatenate([q.weight * inside, k.weight, v.weight], axis=1)
    vector = np.concatenate([q.bias * inside, k.bias, v.bias])
    qkv = build.linear(block.root, weight, vector, is_flat=False)
    parts = build.split(qkv, [p.weight.shape[1] for p in projections])
    query, key, value = (
        _lead_on(build, part, projection, operand, is_key=index == 1)
        for index, (part, projection, operand) in enumerate(
            zip(parts, projections, attention.operands, strict=True)
        )
    )
    if inside != np.float32(scale):
        query = build.one("Mul", query, build.number(scale))
    scores = build.one("MatMul", query, key)
    if bias is not None:
        scores = build.one("Add", scores, build.constant(bias))
    context = build.one("MatMul", build.one("Softmax", scores, axis=-1), value)
    merged = build.one("Transpose", context, perm=_HEADS_FIRST)
    merged = build.one("Reshape", merged, build.ints(0, 0, v.weight.shape[1]))
    if proj.way.nodes:
        proj.way.start_from(merged)
        merged = block.linears("proj")[0].input
    replace_value(output, build.linear(merged, proj.weight, proj.bias, is_flat=False))


def _lead_on(
    build: Builder, part: ir.Value, projection: _Projection, operand: ir.Value, *, is_key: bool
) -> ir.Value:
    """Return what the attention reads, made of `part`, (batch, tokens, heads * channels)."""
    heads, way, value = projection.num_heads, projection.way, part
    if projection.layout is not None:
        size = projection.weight.shape[1] // heads
        value = build.one("Reshape", part, build.ints(0, 0, heads, size))
        perm = (0, 2, 3, 1) if is_key and not way.nodes else projection.layout
        if perm != _TOKENS_FIRST:
            value = build.one("Transpose", value, perm=perm)
    if not way.nodes:
        return value
    way.start_from(value)
    return operand


def _read_projection(
    block: Block, operand: ir.Value, shapes: Shapes, *, is_key: bool
) -> _Projection:
    """Return the linear layer behind `operand`, its columns in the order (head, channel)."""
    linears = {linear.output: linear for linear in block.linears("qkv")}
    way = trace_back(operand, linears)
    if way is None:
        raise _NotCanonical("queries, keys or values are made of more than one linear layer")
    linear = linears[way.source]
    batch, tokens, _ = shapes[block.root]
    num_heads, rest = divmod(math.prod(shapes[operand][:-2]), batch)
    if rest or not num_heads:
        raise _NotCanonical("attention across the groups that the tokens come in")
    positions = way.positions(shapes[way.source])
    if not way.nodes:
        positions = np.swapaxes(positions, -1, -2) if is_key else positions
        positions = positions.reshape(batch, num_heads, *positions.shape[-2:])
    elif len(shapes[operand]) != 4:
        raise _NotCanonical("heads are not apart from the batch")
    layout = _find_layout(positions, num_heads, tokens)
    if layout is not None:
        positions = positions.transpose(layout)  # either layout is its own inverse
    positions = positions.reshape(batch, tokens, -1)
    rows, columns = np.divmod(positions, linear.shape[1])
    if (rows != rows[:, :, :1]).any() or (columns != columns[:1, :1]).any():
        raise _NotCanonical("heads mix tokens and channels")
    _check_rows(linear, block.root, shapes, rows[:, :, 0])
    order, scale = columns[0, 0], np.float32(way.factor)
    weight, bias = linear.weight[:, order] * scale, linear.bias[order] * scale
    return _Projection(weight, bias, num_heads, way, layout)


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


def _check_rows(linear: Linear, root: ir.Value, shapes: Shapes, rows: Array) -> None:
    """Check that row ``rows[b, n]`` of the layer's input is token n of image b of `root`."""
    way = trace_back(linear.input, [root])
    if way is None or way.nodes or way.factor != 1.0:
        raise _NotCanonical("queries, keys and values have different inputs")
    positions = way.positions(shapes[root])
    if positions.size != math.prod(shapes[root]):
        raise _NotCanonical("a part of the tokens is read")
    positions = positions.reshape(-1, shapes[root][-1])
    if (positions[rows.reshape(-1)].reshape(-1) != np.arange(positions.size)).any():
        raise _NotCanonical("tokens are reordered before the linear layer")


def _read_scores(product: ir.Value, value: ir.Value) -> tuple[float, Array | None]:
    """Return (scale, additive constant) between the product of q and k and the softmax."""
    scale, bias = 1.0, None
    while value is not product:
        node = value.producer()
        assert node is not None
        scaled = walk.scaled_by(node)
        if scaled is not None:
            value, factor = scaled
            scale *= factor
        elif node.op_type == "Add" and bias is None:
            index = walk.constant_index(node)
            if index < 0:
                raise _NotCanonical("a computed bias on the attention scores")
            bias = walk.array_of(node.inputs[index]) * np.float32(scale)
            if walk.adds_dimensions(*node.inputs):
                raise _NotCanonical("a bias of more dimensions than the attention scores")
            if bias.ndim and np.isneginf(bias).all(axis=-1).any():
                raise _NotCanonical("a mask that leaves a token no key")
            value = walk.data_input(node, 1 - index)
        else:
            raise _NotCanonical(f"{node.op_type} on the attention scores")
    return scale, bias


def _check_probabilities(softmax: ir.Node, value: ir.Value) -> None:
    """Accept the softmax itself, or one guarded against rows without any score."""
    if not walk.is_over_last_axis(softmax):
        raise _NotCanonical("softmax over another axis")
    probabilities, node = softmax.outputs[0], value.producer()
    if value is not probabilities and not (node and _is_guard(node, probabilities)):
        raise _NotCanonical(f"{node.op_type if node else 'nothing'} between softmax and values")


def _is_guard(node: ir.Node, probabilities: ir.Value) -> bool:
    """Return whether `node` is ``Where(IsNaN(probabilities), 0, probabilities)``."""
    if node.op_type != "Where" or node.inputs[2] is not probabilities:
        return False
    asked = walk.made_by(node.inputs[0], "IsNaN")
    is_own = asked is not None and walk.data_input(asked) is probabilities
    return is_own and walk.scalar_of(node.inputs[1]) == 0.0


def _read_proj(block: Block, shapes: Shapes, num_heads: int) -> tuple[_Projection, ir.Value]:
    """Return the output layer, rows in the order (head, channel), and the value it becomes."""
    (linear,) = block.linears("proj")
    way = trace_back(linear.input, [block.attention.context.outputs[0]])
    if way is None:
        raise _NotCanonical("proj reads more than the attention")
    batch, tokens, _ = shapes[block.root]
    width, out_width = linear.shape
    size = width // num_heads
    positions = way.positions(shapes[way.source])
    if not positions.size == batch * tokens * width == math.prod(shapes[way.source]):
        raise _NotCanonical("proj reads a part of the attention")
    if way.nodes and positions.shape != (batch, tokens, width):
        raise _NotCanonical("more than moves between attention and proj")
    positions = positions.reshape(-1, width)
    images, heads, rows, channels = np.unravel_index(positions, (batch, num_heads, tokens, size))
    token = images * tokens + rows  # of each element of each row
    is_mixed = (token != token[:, :1]).any() or (heads != heads[:1]).any()
    if is_mixed or (channels != channels[:1]).any():
        raise _NotCanonical("proj mixes tokens and channels")
    order = heads[0] * size + channels[0]
    if way.nodes and ((order != np.arange(width)).any() or way.factor != 1.0):
        raise _NotCanonical("channels are reordered between attention and proj")
    weight = np.empty_like(linear.weight)
    weight[order] = linear.weight * np.float32(way.factor)
    row_of_token = np.argsort(token[:, 0])
    wanted = row_of_token.reshape(batch, tokens, 1) * out_width + np.arange(out_width)
    output, moves = linear.output, list[ir.Node]()
    while True:
        positions = move(moves, linear.output, output, shapes[linear.output])
        if positions.shape == wanted.shape and (positions == wanted).all():
            return _Projection(weight, linear.bias, num_heads, way, None), output
        uses = list(walk.consumers(output))
        if len(uses) != 1 or not walk.is_movement(uses[0]) or len(uses[0].outputs) != 1:
            raise _NotCanonical("tokens are reordered behind the attention")
        moves.append(uses[0])
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
