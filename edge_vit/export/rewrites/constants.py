"""Turns everything that does not depend on the image into constants, shapes and branches included.

Exporters leave behind arithmetic on shapes, transposed weights, interpolated position embeddings,
masks that hide nothing. Instead of knowing each pattern, the model is run at several batch sizes:
what depends on no pixel and is equal for all of them is a constant.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.export.rewrites.naming import forget_names
from edge_vit.export.rewrites.probe import PROBE_BATCHES, make_probes
from edge_vit.graph import walk
from edge_vit.graph.edit import Builder, add_constant, replace_value
from edge_vit.graph.walk import Array

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

_ROUNDING = 1e-6  # over the largest number
_HIDDEN = 1e9  # from here on, numbers are those of masks

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Pow", "Max", "Min"})
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def fold_constants(model: ir.Model) -> None:
    """Replace all that depends on no pixel by constants; a Reshape's batch dimension becomes -1.

    Only what truly varies with the batch size stays, such as the Expand of a class token.
    """
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph = model.graph
    derived = _derived_values(graph)
    if derived:
        inferring = _inferring_reshapes(derived)
        reshaped = [node.outputs[0] for node in inferring]
        batches = _find_batches(graph)
        probes = make_probes(model, *batches)
        shapes = [probe.shapes(reshaped) for probe in probes]
        runs = [probe.arrays(derived) for probe in probes]
        for node in inferring:
            _fix_target(graph, node, [np.array(shape[node.outputs[0]]) for shape in shapes])
        known = frozenset(derived)
        for value in derived:
            _replace(graph, value, [run[value.name or ""] for run in runs], batches, known)
    for node in list(graph):
        # Dropout too passes its input on, as ONNX Runtime takes it.
        is_masked = any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])
        passes_on = node.op_type in ("Identity", "Dropout") and not is_masked
        if passes_on and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(walk.data_input(node))
    _drop_zero_additions(graph)
    passes.RemoveUnusedNodesPass()(model)


def drop_idle_casts(graph: ir.Graph) -> None:
    """Remove casts of values to the type that they have. Needs known types.

    Exporters write one behind a softmax in float32, for models that run in half precision too.
    """
    for node in list(graph):
        if node.op_type != "Cast" or node.outputs[0].is_graph_output():
            continue
        source = walk.data_input(node)
        if source.dtype == ir.DataType(node.attributes["to"].as_int()):
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)


def keep_batch_dimension(graph: ir.Graph) -> None:
    """Let a Reshape that keeps its first dimension say so: 0 in place of -1. Needs known shapes."""
    for node in graph:
        if node.op_type != "Reshape" or not walk.is_constant(node.inputs[1]):
            continue
        target, rest = walk.array_of(node.inputs[1]), walk.dims_of(walk.data_input(node))[1:]
        if (target == 0).any():
            continue
        node.attributes.pop("allowzero", None)  # for a target without zeros it means nothing
        if not len(target) or target[0] != -1 or (target[1:] < 1).any():
            continue
        has_rank = len(walk.dims_of(walk.data_input(node))) > 0
        if (
            has_rank
            and all(isinstance(d, int) for d in rest)
            and np.prod(rest) == np.prod(target[1:])
        ):
            kept = add_constant(graph, "", np.array([0, *target[1:]], np.int64))
            node.replace_input_with(1, kept)


def _find_batches(graph: ir.Graph) -> tuple[int, ...]:
    """Return the batch sizes at which the graph is run to learn what does not depend on them.

    One image is among them, since exporters treat it apart.
    """
    (batch, *_) = walk.dims_of(graph.inputs[0])
    return (batch,) if isinstance(batch, int) else (1, *PROBE_BATCHES)


def _derived_values(graph: ir.Graph) -> list[ir.Value]:
    """Return every value that is computed from constants and shapes alone.

    A shape that the pixels decide, as behind NonZero, is none of them.
    """
    derived: dict[ir.Value, None] = {}
    open_shapes: set[ir.Value] = set()
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "CastLike":
            inputs = inputs[:1]  # of the other the type alone is read
        unknown = [not walk.is_constant(value) and value not in derived for value in inputs]
        if _has_open_shape(node, unknown) or (
            node.op_type not in _SHAPE_OPS and not open_shapes.isdisjoint(inputs)
        ):
            open_shapes.update(node.outputs)
        is_derived = (node.op_type in _SHAPE_OPS and inputs[0] not in open_shapes) or (
            node.op_type not in _RANDOM_OPS
            and not walk.has_subgraph(node)  # it reads more than its inputs
            and not any(unknown)
        )
        if is_derived:
            derived.update(dict.fromkeys(value for value in node.outputs if value.uses()))
    return list(derived)


def _has_open_shape(node: ir.Node, unknown: list[bool]) -> bool:
    """Return whether the pixels decide the shape that `node` makes; `unknown` inputs hold them."""
    if node.op_type in _SHAPED_BY_DATA:
        return any(unknown)
    first = 0 if node.op_type in ("Range", "ConstantOfShape") else 1
    return node.op_type in _SHAPED_BY_INPUT and any(unknown[first:])


def _inferring_reshapes(derived: list[ir.Value]) -> list[ir.Node]:
    """Return each Reshape to a computed target: what it leads to is known from the run alone.

    A target that is put together from numbers may hold -1 or 0 already.
    """
    found = []
    for value in derived:
        node = value.producer()
        numbers = [v for v in node.inputs if walk.is_constant(v)] if node is not None else []
        if any((walk.array_of(v) < 1).any() for v in numbers):
            uses = (use for use in value.uses() if use.node.op_type == "Reshape" and use.idx == 1)
            found += [use.node for use in uses]
    return found


def _fix_target(graph: ir.Graph, node: ir.Node, shapes: list[Array]) -> None:
    """Let the Reshape `node` lead to `shapes`, -1 where they vary, if one target can say that."""
    if len({len(shape) for shape in shapes}) != 1:
        return
    varies = np.any([shape != shapes[0] for shape in shapes], axis=0)
    target = np.where(varies, -1, shapes[0]).astype(np.int64)
    if (target < 1).sum() <= 1:
        node.replace_input_with(1, add_constant(graph, "", target))


def _replace(
    graph: ir.Graph,
    value: ir.Value,
    arrays: list[Array],
    batches: tuple[int, ...],
    derived: Collection[ir.Value],
) -> None:
    def has_batch(other: ir.Value | None) -> bool:
        return other is not None and not walk.is_constant(other) and other not in derived

    first = arrays[0]
    if all(a.shape == first.shape and _is_same(a, first) for a in arrays[1:]):
        value.replace_all_uses_with(add_constant(graph, "", first))
        return
    for use in list(value.uses()):
        if use.node.op_type == "Reshape" and use.idx == 1:
            _fix_target(graph, use.node, arrays)
        elif use.node.op_type == "Expand" and use.idx == 1 and _begin_with_batch(arrays, batches):
            # (batch, *rest), whatever an exporter did to get there
            build = Builder(graph, use.node)
            batch = build.one("Shape", graph.inputs[0], start=0, end=1)
            shape = build.one("Concat", batch, build.constant(first[1:]), axis=0)
            use.node.replace_input_with(1, shape)
    broadcasting = _BROADCASTING | ({"MatMul"} if first.ndim > 2 else set())
    is_broadcast = all(
        node.op_type in broadcasting and any(map(has_batch, node.inputs))
        for node in walk.consumers(value)
    )
    if is_broadcast and _repeat_along_batch(arrays, batches):
        value.replace_all_uses_with(add_constant(graph, "", first[:1]))


def _begin_with_batch(arrays: list[Array], batches: tuple[int, ...]) -> bool:
    """Return whether the arrays are shapes: the batch size, followed by the same numbers."""
    first = arrays[0]
    return all(
        a.shape == first.shape and a[0] == batch and (a[1:] == first[1:]).all()
        for a, batch in zip(arrays, batches, strict=True)
    )


def _repeat_along_batch(arrays: list[Array], batches: tuple[int, ...]) -> bool:
    """Return whether each array is the same row, once for each image."""
    if arrays[0].ndim < 2:
        return False
    row = arrays[0][:1]
    return all(
        len(a) == batch and a.shape[1:] == row.shape[1:] and _is_same(a, row)
        for a, batch in zip(arrays, batches, strict=True)
    )


def _is_same(array: Array, other: Array) -> bool:
    """Return whether two arrays are equal; a product of more rows may be rounded otherwise."""
    if not np.issubdtype(array.dtype, np.floating):
        return bool((array == other).all())
    sizes = np.abs(other)
    limit = _ROUNDING * float(sizes[sizes < _HIDDEN].max(initial=0))
    return bool(np.isclose(array, other, rtol=0, atol=limit, equal_nan=True).all())


def _drop_zero_additions(graph: ir.Graph) -> None:
    """Remove additions of zeros that broadcast nothing: masks that hide no token."""
    for node in list(graph):
        if node.op_type != "Add" or node.outputs[0].is_graph_output():
            continue
        for index, zeros in enumerate(node.inputs):
            other = node.inputs[1 - index]
            if other is None or not walk.is_constant(zeros) or walk.is_constant(other):
                continue
            if _broadcasts_into(walk.array_shape(zeros), other) and not walk.array_of(zeros).any():
                node.outputs[0].replace_all_uses_with(other)
                break


def _broadcasts_into(small: tuple[int, ...], value: ir.Value) -> bool:
    """Return whether an array of shape `small` leaves `value` at its size when added."""
    dims = walk.dims_of(value)
    if value.shape is None or len(small) > len(dims):
        return False
    return all(dim in (1, size) for dim, size in zip(small[::-1], dims[::-1], strict=False))


def resolve_branches(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return `proto` with each `If` replaced by the branch that it takes at every batch size.

    Exporters write one where Python asked about a shape. It is done in the file's own opset: the
    converter to another one leaves branches as they are.
    """
    if not any(node.op_type in _CONTROL_FLOW for node in proto.graph.node):
        return proto
    model = ir.from_proto(proto)
    passes.InlinePass()(model)
    graph = model.graph
    names = {n: n.name or n.outputs[0].name for n in ir.traversal.RecursiveGraphIterator(graph)}
    while flow := [node for node in graph if node.op_type in _CONTROL_FLOW]:
        node = flow[0]
        where = f"node {names[node]!r} ({node.op_type})"
        if node.op_type != "If":
            raise SpecError(
                f"{where} repeats a part of the graph, which cannot be quantized or split. Export "
                "the model with the loop written out"
            )
        forget_names(graph)
        _inline(graph, node, _condition(model, node, where))
    forget_names(graph)
    passes.RemoveUnusedNodesPass()(model)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # what an exporter has noted for both branches
    return ir.to_proto(model)


def _condition(model: ir.Model, node: ir.Node, where: str) -> bool:
    """Return the condition of `node`."""
    condition = walk.data_input(node)
    if walk.is_constant(condition):
        return bool(walk.array_of(condition).reshape(-1)[0])
    if condition not in _derived_values(model.graph):
        raise SpecError(
            f"{where} chooses between two branches by what is in the image. Export the model "
            "without that choice"
        )
    probes = make_probes(model, *_find_batches(model.graph))
    runs = [probe.arrays([condition]) for probe in probes]
    found = {bool(np.reshape(run[condition.name or ""], -1)[0]) for run in runs}
    if len(found) > 1:
        raise SpecError(
            f"{where} chooses between two branches by the batch size. Add --static-batch N"
        )
    return found.pop()


def _inline(graph: ir.Graph, node: ir.Node, condition: bool) -> None:
    """Put the nodes of the branch that `condition` takes in the place of `node`."""
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    outputs = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        del branch.initializers[value.name or ""]
        value.name = f"branch/{node.name}/{value.name}"
        if value.const_value is not None:
            value.const_value.name = value.name
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, outputs, strict=True):
        replace_value(old, new)
    graph.remove(node, safe=True)
