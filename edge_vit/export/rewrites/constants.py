"""Turns everything that does not depend on the image into constants, shapes included.

Exporters leave behind arithmetic on shapes, transposed weights, interpolated position embeddings,
masks that hide nothing. Instead of knowing each pattern, the model is run at several batch sizes:
what depends on no pixel and is equal for all of them is a constant.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.export.rewrites.edit import Builder, constant
from edge_vit.export.rewrites.probe import PROBE_BATCHES, find_shapes, run_values
from edge_vit.graph.walk import (
    Array,
    array_of,
    consumers,
    data_input,
    has_subgraph,
    is_constant,
)

_SHAPE_OPS = frozenset({"Shape", "Size"})
_RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial", "Dropout"}
)
_SHAPED_BY_DATA = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression"})
_SHAPED_BY_INPUT = frozenset(
    {"Reshape", "Expand", "Slice", "Tile", "Range", "ConstantOfShape", "Pad", "Resize", "TopK"}
    | {"OneHot", "Split"}
)
"""Operators whose outputs have as many elements as a further input says."""

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Pow", "Max", "Min"})


def fold_constants(model: ir.Model) -> None:
    """Replace all that depends on no pixel by constants; a Reshape's batch dimension becomes -1.

    Only what truly varies with the batch size stays, such as the Expand of a class token.
    """
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph = model.graph
    derived = derived_values(graph)
    if derived:
        inferring = _inferring_reshapes(derived)
        reshaped = [node.outputs[0] for node in inferring]
        batches = find_batches(graph)
        shapes = [find_shapes(model, reshaped, batch) for batch in batches if reshaped]
        runs = [run_values(model, derived, batch) for batch in batches]
        for node in inferring:
            _fix_target(graph, node, [np.array(shape[node.outputs[0]]) for shape in shapes])
        for value in derived:
            _replace(graph, value, [run[value.name or ""] for run in runs], batches)
    for node in list(graph):
        if _is_identity(node) and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(data_input(node))
    _drop_zero_additions(graph)
    passes.RemoveUnusedNodesPass()(model)


def keep_batch_dimension(graph: ir.Graph) -> None:
    """Let a Reshape that keeps its first dimension say so: 0 in place of -1. Needs known shapes."""
    for node in graph:
        wanted = node.inputs[1] if node.op_type == "Reshape" else None
        if wanted is None or not is_constant(wanted):
            continue
        target, shape = array_of(wanted), data_input(node).shape
        if (target == 0).any():
            continue
        node.attributes.pop("allowzero", None)  # for a target without zeros it means nothing
        if shape is None or not len(target) or target[0] != -1 or (target[1:] < 1).any():
            continue
        rest = [dim for dim in list(shape)[1:] if isinstance(dim, int)]
        if len(rest) == len(shape) - 1 and np.prod(rest) == np.prod(target[1:]):
            node.replace_input_with(1, constant(graph, np.array([0, *target[1:]], np.int64)))


def _is_identity(node: ir.Node) -> bool:
    """Say whether `node` passes its input on: Dropout too, as ONNX Runtime takes it."""
    if node.op_type == "Dropout":
        return not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])
    return node.op_type == "Identity"


def find_batches(graph: ir.Graph) -> tuple[int, ...]:
    """Return the batch sizes at which the graph is run to learn what does not depend on them.

    One image is among them, since exporters treat it apart.
    """
    shape = graph.inputs[0].shape
    assert shape is not None
    return (shape[0],) if isinstance(shape[0], int) else (1, *PROBE_BATCHES)


def derived_values(graph: ir.Graph) -> list[ir.Value]:
    """Return every value that is computed from constants and shapes alone.

    A shape that the pixels decide, as behind NonZero, is none of them.
    """
    derived: dict[ir.Value, None] = {}
    open_shapes: set[ir.Value] = set()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if _has_open_shape(node, inputs, derived, open_shapes):
            open_shapes.update(node.outputs)
        is_derived = (node.op_type in _SHAPE_OPS and inputs[0] not in open_shapes) or (
            node.op_type not in _RANDOM_OPS
            and not has_subgraph(node)  # it reads more than its inputs
            and all(is_constant(value) or value in derived for value in inputs)
        )
        if is_derived:
            derived.update(dict.fromkeys(value for value in node.outputs if value.uses()))
    return list(derived)


def _has_open_shape(
    node: ir.Node,
    inputs: list[ir.Value],
    derived: dict[ir.Value, None],
    open_shapes: set[ir.Value],
) -> bool:
    """Say whether the pixels decide the shape of what `node` makes."""
    if node.op_type in _SHAPE_OPS:
        return False
    if any(value in open_shapes for value in inputs):
        return True
    unknown = [not is_constant(value) and value not in derived for value in inputs]
    if node.op_type in _SHAPED_BY_DATA:
        return any(unknown)
    first = 0 if node.op_type in ("Range", "ConstantOfShape") else 1
    return node.op_type in _SHAPED_BY_INPUT and any(unknown[first:])


def _inferring_reshapes(derived: list[ir.Value]) -> list[ir.Node]:
    """Return each Reshape to a computed target: what it leads to is known from the run alone.

    A target that is put together from numbers may hold -1 or 0 already.
    """
    return [
        use.node
        for value in derived
        for use in value.uses()
        if use.node.op_type == "Reshape" and use.idx == 1 and _is_put_together(value)
    ]


def _is_put_together(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and any(
        v is not None and is_constant(v) and (array_of(v) < 1).any() for v in node.inputs
    )


def _fix_target(graph: ir.Graph, node: ir.Node, shapes: list[Array]) -> None:
    target = _reshape_target(shapes)
    if target is not None:
        node.replace_input_with(1, constant(graph, target))


def _replace(
    graph: ir.Graph, value: ir.Value, arrays: list[Array], batches: tuple[int, ...]
) -> None:
    first = arrays[0]
    if all(a.shape == first.shape and (a == first).all() for a in arrays[1:]):
        value.replace_all_uses_with(constant(graph, first))
        return
    for use in list(value.uses()):
        if use.node.op_type == "Reshape" and use.idx == 1:
            _fix_target(graph, use.node, arrays)
        elif use.node.op_type == "Expand" and use.idx == 1 and _starts_with_batch(arrays, batches):
            use.node.replace_input_with(1, _batch_and(graph, use.node, first[1:]))
    if _repeats_along_batch(arrays, batches) and all(
        node.op_type in _BROADCASTING for node in consumers(value)
    ):
        value.replace_all_uses_with(constant(graph, first[:1]))


def _reshape_target(arrays: list[Array]) -> Array | None:
    """Return the target with -1 where it varies, or None where no one target says it."""
    if len({len(a) for a in arrays}) != 1:
        return None
    varies = np.any([a != arrays[0] for a in arrays], axis=0)
    target = np.where(varies, -1, arrays[0]).astype(np.int64)
    return target if (target < 1).sum() <= 1 else None


def _starts_with_batch(arrays: list[Array], batches: tuple[int, ...]) -> bool:
    """Say whether each shape is the batch size, followed by the same numbers."""
    if len({len(a) for a in arrays}) != 1:
        return False
    return all(
        a[0] == batch and (a[1:] == arrays[0][1:]).all()
        for a, batch in zip(arrays, batches, strict=True)
    )


def _batch_and(graph: ir.Graph, before: ir.Node, rest: Array) -> ir.Value:
    """Return the shape (batch, *rest), whatever an exporter did to get there."""
    build = Builder(graph, before)
    batch = build.one("Shape", graph.inputs[0], start=0, end=1)
    return build.one("Concat", batch, build.constant(rest), axis=0)


def _repeats_along_batch(arrays: list[Array], batches: tuple[int, ...]) -> bool:
    if len(arrays) < 2 or arrays[0].ndim < 2:
        return False
    row = arrays[0][:1]
    return all(
        len(a) == batch and a.shape[1:] == row.shape[1:] and (a == row).all()
        for a, batch in zip(arrays, batches, strict=True)
    )


def _drop_zero_additions(graph: ir.Graph) -> None:
    """Remove additions of zeros that broadcast nothing: masks that hide no token."""
    for node in list(graph):
        if node.op_type != "Add" or node.outputs[0].is_graph_output():
            continue
        for index, operand in enumerate(node.inputs):
            other = node.inputs[1 - index]
            if operand is None or other is None or not is_constant(operand) or is_constant(other):
                continue
            zeros = operand.const_value
            assert zeros is not None
            if not _broadcasts_into(zeros.shape, other.shape) or zeros.numpy().any():
                continue
            node.outputs[0].replace_all_uses_with(other)
            break


def _broadcasts_into(small: ir.ShapeProtocol, shape: ir.Shape | None) -> bool:
    """Say whether an array of shape `small` leaves one of `shape` at its size when added."""
    if shape is None or len(small) > len(shape):
        return False
    pairs = zip(list(small)[::-1], list(shape)[::-1], strict=False)
    return all(dim in (1, size) for dim, size in pairs)
