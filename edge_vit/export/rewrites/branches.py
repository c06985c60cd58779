"""Takes out `If`: the branch that is always taken stands in its place."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from edge_vit.errors import SpecError
from edge_vit.export.rewrites.constants import derived_values, find_batches
from edge_vit.export.rewrites.edit import replace_value
from edge_vit.export.rewrites.naming import forget_names
from edge_vit.export.rewrites.probe import run_values
from edge_vit.graph.walk import is_constant

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def resolve_branches(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return `proto` with each `If` replaced by the branch that it takes at every batch size.

    Exporters write one where Python asked about a shape. It is done in the file's own opset: the
    converter to another one leaves branches as they are.

    Raises:
        SpecError: a condition depends on the image or on the batch size, or there is a loop. The
            message names the node.
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
    condition = node.inputs[0]
    assert condition is not None
    if is_constant(condition):
        assert condition.const_value is not None
        return bool(condition.const_value.numpy().reshape(-1)[0])
    if condition not in derived_values(model.graph):
        raise SpecError(
            f"{where} chooses between two branches by what is in the image. Export the model "
            "without that choice"
        )
    batches = find_batches(model.graph)
    found = [
        bool(np.asarray(run_values(model, [condition], batch)[condition.name or ""]).reshape(-1)[0])
        for batch in batches
    ]
    if len(set(found)) > 1:
        raise SpecError(
            f"{where} chooses between two branches by the batch size. Add --static-batch N"
        )
    return found[0]


def _inline(graph: ir.Graph, node: ir.Node, condition: bool) -> None:
    """Put the nodes of the branch that `condition` takes in the place of `node`."""
    attribute = node.attributes["then_branch" if condition else "else_branch"]
    branch = attribute.as_graph()
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
