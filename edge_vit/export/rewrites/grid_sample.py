"""Writes GridSample, which some versions of TensorRT build wrong, as gathers.

Bilinear sampling at a point is the sum of the four pixels around it, weighted by how near they are.
Each pixel is read by its index; one outside of the picture weighs nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.export.rewrites.probe import find_shapes
from edge_vit.graph.walk import data_input

_PROBE_BATCH = 2


def write_grid_samples(model: ir.Model) -> tuple[str, ...]:
    """Replace every bilinear GridSample of pictures; return why some were left as they are."""
    nodes = [node for node in model.graph if node.op_type == "GridSample"]
    if not nodes:
        return ()
    wanted = [value for node in nodes for value in node.inputs if value is not None]
    shapes = find_shapes(model, wanted, _PROBE_BATCH)
    left: dict[str, int] = {}
    for node in nodes:
        why = _refusal(node, shapes[data_input(node)])
        if why:
            left[why] = left.get(why, 0) + 1
        else:
            _write(model.graph, node, shapes)
    return tuple(f"{count} GridSample left as they are: {why}" for why, count in left.items())


def _refusal(node: ir.Node, shape: tuple[int, ...]) -> str:
    mode = node.attributes.get_string("mode", "linear")
    padding = node.attributes.get_string("padding_mode", "zeros")
    if mode not in ("bilinear", "linear"):
        return f"{mode} interpolation"
    if padding != "zeros":
        return f"{padding} padding"
    return "" if len(shape) == 4 else "sampled in a volume"


def _write(graph: ir.Graph, node: ir.Node, shapes: dict[ir.Value, tuple[int, ...]]) -> None:
    picture, grid = node.inputs
    assert picture is not None
    assert grid is not None
    _, channels, height, width = shapes[picture]
    _, rows, columns, _ = shapes[grid]
    corners_aligned = bool(node.attributes.get_int("align_corners", 0))
    build = Builder(graph, node)

    flat = build.one("Reshape", picture, _ints(build, 0, channels, height * width))
    pixels = build.one("Transpose", flat, perm=(0, 2, 1))
    xs, ys = (
        _neighbours(build, grid, axis, side, corners_aligned=corners_aligned)
        for axis, side in ((0, width), (1, height))
    )
    total: ir.Value | None = None
    for y, weight_y in ys:
        line = build.one("Mul", y, build.constant(np.array(width, np.int64)))
        for x, weight_x in xs:
            index = build.one("Add", line, x)
            index = build.one("Reshape", index, _ints(build, 0, rows * columns, 1))
            weight = build.one("Mul", weight_y, weight_x)
            weight = build.one("Reshape", weight, _ints(build, 0, rows * columns, 1))
            # (batch, points, channels)
            read = build.one("GatherND", pixels, index, batch_dims=1)
            part = build.one("Mul", read, weight)
            total = part if total is None else build.one("Add", total, part)
    assert total is not None
    sampled = build.one("Transpose", total, perm=(0, 2, 1))
    shaped = build.one("Reshape", sampled, _ints(build, 0, channels, rows, columns))
    replace_value(node.outputs[0], shaped)
    graph.remove(node, safe=True)


def _neighbours(
    build: Builder, grid: ir.Value, axis: int, side: int, *, corners_aligned: bool
) -> list[tuple[ir.Value, ir.Value]]:
    """Return index and weight of the two pixels beside each point along one axis.

    Args:
        build: adds the nodes.
        grid: (batch, rows, columns, 2), x and y from -1 to 1 over the picture.
        axis: 0 for x, 1 for y.
        side: pixels along it.
        corners_aligned: whether -1 and 1 are the centres of the outer pixels, not their edges.
    """

    def number(value: float) -> ir.Value:
        return build.constant(np.array(value, np.float32))

    at = build.one("Gather", grid, build.constant(np.array(axis, np.int64)), axis=3)
    half = (side - 1) / 2 if corners_aligned else side / 2
    position = build.one("Mul", at, number(half))
    position = build.one("Add", position, number((side - 1) / 2))
    low = build.one("Floor", position)
    share = build.one("Sub", position, low)
    found = []
    for pixel, weight in (
        (low, build.one("Sub", number(1.0), share)),
        (build.one("Add", low, number(1.0)), share),
    ):
        inside = build.one("Clip", pixel, number(0.0), number(side - 1.0))
        is_inside = build.one("Equal", inside, pixel)
        counts = build.one("Cast", is_inside, to=int(ir.DataType.FLOAT))
        index = build.one("Cast", inside, to=int(ir.DataType.INT64))
        found.append((index, build.one("Mul", weight, counts)))
    return found


def _ints(build: Builder, *values: int) -> ir.Value:
    return build.constant(np.array(values, np.int64))
