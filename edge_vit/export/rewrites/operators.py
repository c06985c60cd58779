"""Spells out operators that opset 19 does not have, or that TensorRT builds wrong."""

from __future__ import annotations

import math
from collections import Counter

import onnx_ir as ir

from edge_vit.export.rewrites.probe import make_probes
from edge_vit.graph import walk
from edge_vit.graph.edit import Builder, replace_value

_PROBE_BATCH = 2


def spell_out_newer(graph: ir.Graph) -> int:
    """Turn Attention and RMSNormalization of opset 23 into what opset 19 has; return how many.

    An Attention that does more than attend (a cache, a causal mask, a cap, grouped heads) stays as
    it is; the checker names it then. Col2Im, which TensorRT does not read, becomes a Reshape where
    its blocks do not overlap.
    """
    spelled = {
        "Attention": _spell_attention,
        "RMSNormalization": _spell_rms_norm,
        "Col2Im": _spell_col2im,
    }
    return sum(
        spelled[node.op_type](graph, node)
        for node in list(graph)
        if node.op_type in spelled and node.domain == ""
    )


def _spell_attention(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``softmax(Q K^T scale + mask) V``; Q, K and V are (batch, heads, tokens, width)."""
    query, key, value, mask, *more = (*node.inputs, None)[: max(4, len(node.inputs))]
    if query is None or key is None or value is None or any(v is not None for v in more):
        return False
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if node.attributes.get_int("is_causal", 0) != 0:
        return False
    if node.attributes.get_float("softcap", 0.0) != 0:
        return False
    shapes = [walk.dims_of(v) for v in (query, key, value)]
    if any(len(dims) != 4 for dims in shapes) or not isinstance(shapes[0][-1], int):
        return False
    if len({dims[1] for dims in shapes}) != 1:
        return False
    build = Builder(graph, node)
    scale = node.attributes.get_float("scale", 1 / math.sqrt(shapes[0][-1]))
    scores = build.one("MatMul", query, build.one("Transpose", key, perm=(0, 1, 3, 2)))
    scores = build.one("Mul", scores, build.number(scale))
    if mask is not None and mask.dtype == ir.DataType.BOOL:
        scores = build.one("Where", mask, scores, build.number(-math.inf))
    elif mask is not None:
        scores = build.one("Add", scores, mask)
    context = build.one("MatMul", build.one("Softmax", scores, axis=-1), value)
    replace_value(node.outputs[0], context)
    return True


def _spell_rms_norm(graph: ir.Graph, node: ir.Node) -> bool:
    """Write ``x / sqrt(mean(x^2) + eps) * weight`` over the last axis."""
    x, weight = walk.data_input(node), node.inputs[1]
    if weight is None or not walk.is_over_last_axis(node):
        return False
    build = Builder(graph, node)
    eps = build.number(node.attributes.get_float("epsilon", 1e-5))
    square = build.one("ReduceMean", build.one("Mul", x, x), build.ints(-1), keepdims=1)
    root = build.one("Sqrt", build.one("Add", square, eps))
    replace_value(node.outputs[0], build.one("Mul", build.one("Div", x, root), weight))
    return True


def _spell_col2im(graph: ir.Graph, node: ir.Node) -> bool:
    """Put blocks side by side, (batch, channels * block, blocks), as a picture of them."""
    sizes = node.inputs[1:3]
    if not all(walk.is_constant(size) and walk.array_shape(size) == (2,) for size in sizes):
        return False
    (height, width), (rows, columns) = (map(int, walk.array_of(size)) for size in sizes)
    said = {name: node.attributes.get_ints(name, ()) for name in ("strides", "pads", "dilations")}
    if tuple(said["strides"] or (1, 1)) != (rows, columns) or height % rows or width % columns:
        return False
    if any(said["pads"]) or any(step != 1 for step in said["dilations"]):
        return False
    build = Builder(graph, node)
    apart = build.ints(0, -1, rows, columns, height // rows, width // columns)
    blocks = build.one("Reshape", walk.data_input(node), apart)
    lines = build.one("Transpose", blocks, perm=(0, 1, 4, 2, 5, 3))
    replace_value(node.outputs[0], build.one("Reshape", lines, build.ints(0, -1, height, width)))
    return True


def write_grid_samples(model: ir.Model) -> tuple[str, ...]:
    """Write every bilinear GridSample of pictures as gathers; return why some were left.

    Bilinear sampling at a point is the sum of the four pixels around it, weighted by how near they
    are. Each pixel is read by its index; one outside of the picture weighs nothing.
    """
    nodes = [node for node in model.graph if node.op_type == "GridSample"]
    if not nodes:
        return ()
    wanted = [value for node in nodes for value in node.inputs if value is not None]
    (probe,) = make_probes(model, _PROBE_BATCH)
    shapes = probe.shapes(wanted)
    left = Counter[str]()
    for node in nodes:
        why = _refusal(node, shapes[walk.data_input(node)])
        if why:
            left[why] += 1
        else:
            _write_grid_sample(model.graph, node, shapes)
    return tuple(f"{count} GridSample left as they are: {why}" for why, count in left.items())


def _refusal(node: ir.Node, shape: tuple[int, ...]) -> str:
    mode = node.attributes.get_string("mode", "linear")
    padding = node.attributes.get_string("padding_mode", "zeros")
    if mode not in ("bilinear", "linear"):
        return f"{mode} interpolation"
    if padding != "zeros":
        return f"{padding} padding"
    return "" if len(shape) == 4 else "sampled in a volume"


def _write_grid_sample(
    graph: ir.Graph, node: ir.Node, shapes: dict[ir.Value, tuple[int, ...]]
) -> None:
    picture, grid = walk.data_input(node), walk.data_input(node, 1)
    _, channels, height, width = shapes[picture]
    _, rows, columns, _ = shapes[grid]
    corners_aligned = bool(node.attributes.get_int("align_corners", 0))
    build = Builder(graph, node)

    flat = build.one("Reshape", picture, build.ints(0, channels, height * width))
    pixels = build.one("Transpose", flat, perm=(0, 2, 1))
    xs = _neighbours(build, grid, 0, width, corners_aligned=corners_aligned)
    ys = _neighbours(build, grid, 1, height, corners_aligned=corners_aligned)
    points = build.ints(0, rows * columns, 1)
    parts: list[ir.Value] = []
    for y, weight_y in ys:
        line = build.one("Mul", y, build.ints(width))
        for x, weight_x in xs:
            index = build.one("Reshape", build.one("Add", line, x), points)
            weight = build.one("Reshape", build.one("Mul", weight_y, weight_x), points)
            # (batch, points, channels)
            read = build.one("GatherND", pixels, index, batch_dims=1)
            parts.append(build.one("Mul", read, weight))
    total = parts[0]
    for part in parts[1:]:
        total = build.one("Add", total, part)
    sampled = build.one("Transpose", total, perm=(0, 2, 1))
    shaped = build.one("Reshape", sampled, build.ints(0, channels, rows, columns))
    replace_value(node.outputs[0], shaped)
    graph.remove(node, safe=True)


def _neighbours(
    build: Builder, grid: ir.Value, axis: int, side: int, *, corners_aligned: bool
) -> list[tuple[ir.Value, ir.Value]]:
    """Return index and weight of the two pixels beside each point along one axis of `side` pixels.

    `grid` is (batch, rows, columns, 2), x and y from -1 to 1 over the picture: the centres of the
    outer pixels with `corners_aligned`, else their edges.
    """
    at = build.one("Gather", grid, build.ints(axis), axis=3)
    half = (side - 1) / 2 if corners_aligned else side / 2
    position = build.one("Mul", at, build.number(half))
    position = build.one("Add", position, build.number((side - 1) / 2))
    low = build.one("Floor", position)
    share = build.one("Sub", position, low)
    found = []
    for pixel, weight in (
        (low, build.one("Sub", build.number(1.0), share)),
        (build.one("Add", low, build.number(1.0)), share),
    ):
        inside = build.one("Clip", pixel, build.number(0.0), build.number(side - 1.0))
        counts = build.one("Cast", build.one("Equal", inside, pixel), to=int(ir.DataType.FLOAT))
        index = build.one("Cast", inside, to=int(ir.DataType.INT64))
        found.append((index, build.one("Mul", weight, counts)))
    return found
