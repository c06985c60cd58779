"""Writes every self-attention in one form, whatever moves its exporter made of it.

An exporter may merge or separate queries, keys and values, interleave heads, flatten tokens, swap
axes, split by Gather. Instead of knowing each way, the positions of the elements are sent through
the moves themselves: that tells which weight column each query, key and value element comes from,
and the weights are arranged to say the same in the canonical order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.export.rewrites.probe import find_shapes, make_session
from edge_vit.graph.sites import Block, find_blocks
from edge_vit.graph.walk import (
    Array,
    Linear,
    array_of,
    consumers,
    data_input,
    is_constant,
    is_movement,
    other_operand,
    scaled_by,
)

_PROBE_BATCH = 2  # with 1, a swap of images and tokens would not show


class _NotCanonical(Exception):  # noqa: N818
    """This attention does more than the canonical form can say; its message says what."""


@dataclass(frozen=True)
class _Projection:
    """A linear layer in canonical order: weight (K, heads * size), bias (heads * size,)."""

    weight: Array
    bias: Array
    num_heads: int


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
        wanted.update(dict.fromkeys([block.root, context, *outputs, *inputs]))
    shapes = find_shapes(model, list(wanted), _PROBE_BATCH)
    left: dict[str, list[int]] = {}
    for block in blocks:
        try:
            _rewrite(model.graph, block, shapes)
        except _NotCanonical as reason:
            left.setdefault(str(reason), []).append(block.index)
    return tuple(f"attention of block {_ranges(which)}: {why}" for why, which in left.items())


def _rewrite(graph: ir.Graph, block: Block, shapes: dict[ir.Value, tuple[int, ...]]) -> None:
    attention = block.attention
    if len(shapes[block.root]) != 3:
        raise _NotCanonical(f"tokens come as {shapes[block.root]}, not (batch, tokens, width)")
    query, key = attention.scores.inputs
    value = attention.context.inputs[1]
    assert query is not None
    assert key is not None
    assert value is not None
    q = _read_projection(block, query, shapes, is_transposed=False)
    k = _read_projection(block, key, shapes, is_transposed=True)
    v = _read_projection(block, value, shapes, is_transposed=False)
    if not q.num_heads == k.num_heads == v.num_heads:
        raise _NotCanonical("queries, keys and values have different numbers of heads")
    scale, bias = _read_scores(attention.scores.outputs[0], data_input(attention.softmax))
    _check_probabilities(attention.softmax, data_input(attention.context))
    proj, output = _read_proj(block, shapes, v.num_heads)

    build = Builder(graph, block.linears("proj")[0].matmul)
    weight = np.concatenate([q.weight * np.float32(scale), k.weight, v.weight], axis=1)
    vector = np.concatenate([q.bias * np.float32(scale), k.bias, v.bias])
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
    heads = []
    for part, width, order in zip(parts, widths, ("query", "key", "value"), strict=True):
        target = np.array([0, 0, q.num_heads, width // q.num_heads], np.int64)
        split = build.one("Reshape", part, build.constant(target))
        perm = (0, 2, 3, 1) if order == "key" else (0, 2, 1, 3)
        heads.append(build.one("Transpose", split, perm=perm))
    scores = build.one("MatMul", heads[0], heads[1])
    if bias is not None:
        scores = build.one("Add", scores, build.constant(bias))
    context = build.one("MatMul", build.one("Softmax", scores, axis=-1), heads[2])
    merged = build.one(
        "Reshape",
        build.one("Transpose", context, perm=(0, 2, 1, 3)),
        build.constant(np.array([0, 0, widths[2]], np.int64)),
    )
    result = build.one("MatMul", merged, build.constant(proj.weight))
    if proj.bias.any():
        result = build.one("Add", result, build.constant(proj.bias.reshape(1, 1, -1)))
    replace_value(output, result)


def _read_projection(
    block: Block,
    operand: ir.Value,
    shapes: dict[ir.Value, tuple[int, ...]],
    *,
    is_transposed: bool,
) -> _Projection:
    """Return the linear layer behind `operand`, its columns in the order (head, channel)."""
    source, moves, factor = _trace_back(operand)
    linear = next((li for li in block.linears("qkv") if li.output is source), None)
    if linear is None:
        what = source.producer()
        raise _NotCanonical(f"{what.op_type if what else 'an input'} between linear and attention")
    batch, tokens, width = shapes[block.root]
    positions = _move(moves, shapes[source])
    if is_transposed:
        positions = np.swapaxes(positions, -1, -2)
    rows_count, size = positions.shape[-2:]
    num_heads = int(np.prod(positions.shape[:-2])) // batch
    if rows_count != tokens:
        raise _NotCanonical(f"attention over {rows_count} of {tokens} tokens")
    positions = positions.reshape(batch, num_heads, tokens, size)
    rows, columns = np.divmod(positions, linear.weight.shape[1])
    if (rows != rows[:, :1, :, :1]).any() or (columns != columns[:1, :, :1, :]).any():
        raise _NotCanonical("heads mix tokens and channels")
    _check_rows(linear, block.root, shapes, rows[:, 0, :, 0], width)
    order = columns[0, :, 0, :].reshape(-1)
    scale = np.float32(factor)
    return _Projection(linear.weight[:, order] * scale, linear.bias[order] * scale, num_heads)


def _check_rows(
    linear: Linear,
    root: ir.Value,
    shapes: dict[ir.Value, tuple[int, ...]],
    rows: Array,
    width: int,
) -> None:
    """Check that row ``rows[b, n]`` of the layer's input is token n of image b of `root`."""
    source, moves, factor = _trace_back(linear.input)
    if source is not root or factor != 1.0:
        raise _NotCanonical("queries, keys and values have different inputs")
    positions = _move(moves, shapes[root]).reshape(-1, width)
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
            rest = other_operand(node, constants[0])
            assert rest is not None
            value = rest
        else:
            raise _NotCanonical(f"{node.op_type} on the attention scores")
    return scale, bias


def _check_probabilities(softmax: ir.Node, value: ir.Value) -> None:
    """Accept the softmax itself, or one guarded against rows without any score."""
    if softmax.attributes.get_int("axis", -1) not in (-1, 3):
        raise _NotCanonical("softmax over another axis")
    probabilities = softmax.outputs[0]
    node = value.producer()
    is_guard = (
        node is not None
        and node.op_type == "Where"
        and any(n.op_type == "IsNaN" for n in consumers(probabilities))
        and node.inputs[2] is probabilities
    )
    if value is not probabilities and not is_guard:
        raise _NotCanonical(f"{node.op_type if node else 'nothing'} between softmax and values")


def _read_proj(
    block: Block, shapes: dict[ir.Value, tuple[int, ...]], num_heads: int
) -> tuple[_Projection, ir.Value]:
    """Return the output layer, rows in the order (head, channel), and the value it becomes."""
    (linear,) = block.linears("proj")
    source, moves, factor = _trace_back(linear.input)
    if source is not block.attention.context.outputs[0]:
        what = source.producer()
        raise _NotCanonical(f"{what.op_type if what else 'nothing'} between attention and proj")
    batch, tokens, _ = shapes[block.root]
    width, out_width = linear.weight.shape
    size = width // num_heads
    positions = _move(moves, shapes[source]).reshape(-1, width)
    images, heads, rows, channels = np.unravel_index(positions, (batch, num_heads, tokens, size))
    token = images * tokens + rows  # of each element of each row
    if (
        (token != token[:, :1]).any()
        or (heads != heads[:1]).any()
        or (channels != channels[:1]).any()
    ):
        raise _NotCanonical("proj mixes tokens and channels")
    weight = np.empty_like(linear.weight)
    weight[heads[0] * size + channels[0]] = linear.weight * np.float32(factor)
    row_of_token = np.argsort(token[:, 0])
    wanted = row_of_token.reshape(batch, tokens, 1) * out_width + np.arange(out_width)
    output = linear.output
    moves = []
    while True:
        positions = _move(moves, shapes[linear.output])
        if positions.shape == wanted.shape and (positions == wanted).all():
            return _Projection(weight, linear.bias, num_heads), output
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


_Moves = list[tuple[ir.Node, int]]


def _trace_back(value: ir.Value) -> tuple[ir.Value, _Moves, float]:
    """Return (source, moves from it to `value`, product of the scale factors on the way)."""
    moves: _Moves = []
    factor = 1.0
    while True:
        node = value.producer()
        if node is None:
            break
        scaled = scaled_by(node)
        if scaled is not None:
            value, by = scaled
            factor *= by
        elif is_movement(node):
            moves.append((node, node.outputs.index(value)))
            value = data_input(node)
        else:
            break
    return value, moves[::-1], factor


def _move(moves: _Moves, shape: tuple[int, ...]) -> Array:
    """Return where the elements of an array of `shape` go: flat positions, moved by `moves`."""
    positions = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    if not moves:
        return positions
    nodes, constants, name = [], {}, "positions"
    for number, (node, output) in enumerate(moves):
        proto = ir.to_proto(node)
        proto.input[0] = name
        for index in range(len(proto.output)):
            proto.output[index] = f"moved{number}_{index}"
        name = proto.output[output]
        nodes.append(proto)
        for value in node.inputs[1:]:
            if value is not None:
                constants[value.name] = onnx.numpy_helper.from_array(array_of(value), value.name)
    source = onnx.helper.make_tensor_value_info("positions", onnx.TensorProto.INT64, shape)
    graph = onnx.helper.make_graph(
        nodes, "moves", [source], [onnx.ValueInfoProto(name=name)], list(constants.values())
    )
    opset = [onnx.helper.make_opsetid("", 19)]
    session = make_session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    moved: Array = session.run([name], {"positions": positions})[0]
    return moved
