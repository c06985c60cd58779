"""Leaves out what is computed for dead tokens: those that no output reads.

A classifier reads one token. Behind the last attention no token looks at another, so projection,
MLP and norms there are wanted for that token alone: a sixteenth of the work of 12 blocks.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.edit import add_constant, new_node
from edge_vit.graph.sites import find_sites

_TOKENS = 1  # axis of (batch, tokens, width)
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Cast"}
    | {"Neg", "Reciprocal"}
)


def drop_dead_tokens(graph: ir.Graph) -> int:
    """Let the nodes behind the last attention see the one token that is read; return how many.

    That token has to be taken by a Gather with a constant index. What the graph returns stays the
    same to the bit, but for how a runtime orders the sums of another shape. All shapes have to be
    known; `graph` is changed in place.
    """
    picks = {node: token for node in graph if (token := _picked(node)) is not None}
    for pick, token in reversed(picks.items()):
        nodes = _computed_for(pick)
        if any(node.op_type == "MatMul" for node in nodes):
            _narrow(graph, pick, token, nodes)
            return len(nodes)
    return 0


def find_single_token_layers(model: onnx.ModelProto) -> frozenset[str]:
    """Return the linear layers of the fp32 graph that one token is wanted from, by site name.

    They take next to no time in any precision: `drop_dead_tokens` leaves them that token.
    """
    copy = ir.from_proto(model)
    if not drop_dead_tokens(copy.graph):
        return frozenset()
    shapes = {site.name: walk.dims_of(site.linear.output) for site in find_sites(copy.graph)}
    return frozenset(name for name, s in shapes.items() if len(s) == 3 and s[1] == 1)


def _picked(node: ir.Node) -> int | None:
    """Return which token `node` takes, where it takes one of several."""
    value = node.inputs[0] if node.op_type == "Gather" else None
    if value is None or not _is_tokens(value) or walk.dims_of(value)[_TOKENS] == 1:
        return None
    index = walk.scalar_of(node.inputs[1])
    is_of_tokens = node.attributes.get_int("axis", 0) == _TOKENS
    return int(index) if is_of_tokens and index is not None else None


def _computed_for(pick: ir.Node) -> list[ir.Node]:
    """Return the nodes that work on each token by itself, for `pick` alone; last one first."""
    readers, found = {pick}, []
    graph = pick.graph
    assert graph is not None
    for node in reversed(list(graph)):
        values = node.outputs
        is_read_by_them = all(
            not value.is_graph_output() and set(walk.consumers(value)) <= readers
            for value in values
        )
        if is_read_by_them and any(value.uses() for value in values) and _is_by_token(node):
            readers.add(node)
            found.append(node)
    return found


def _narrow(graph: ir.Graph, pick: ir.Node, token: int, nodes: list[ir.Node]) -> None:
    """Let `nodes` read `token` alone, and `pick` the only one that is left."""
    end = token + 1 or np.iinfo(np.int64).max  # behind token -1 there is the end
    bounds = {"start": token, "end": end, "axis": _TOKENS}
    ends = [add_constant(graph, f"read/{name}", np.array([at])) for name, at in bounds.items()]
    inside = set(nodes)
    cut: dict[ir.Value, ir.Value] = {}
    for node in reversed(nodes):
        for index, value in enumerate(node.inputs):
            if value is None or not _is_tokens(value) or value.producer() in inside:
                continue
            if value not in cut:
                slice_ = new_node("Slice", f"read/{len(cut)}", [value, *ends], like=value)
                cut[value] = slice_.outputs[0]
                cut[value].shape = _one_token(value)
                graph.insert_before(node, slice_)
            node.replace_input_with(index, cut[value])
        for output in node.outputs:
            output.shape = _one_token(output)
    only = np.zeros_like(walk.array_of(pick.inputs[1]))
    pick.replace_input_with(1, add_constant(graph, "read/only", only))


def _one_token(value: ir.Value) -> ir.Shape:
    batch, _, width = walk.dims_of(value)
    return ir.Shape([batch, 1, width])


def _is_by_token(node: ir.Node) -> bool:
    """Return whether each token of `node` depends on the same token of its inputs alone."""
    given = [value for value in node.inputs if value is not None]
    fixed = [value for value in given if _is_weight(value)]
    moving = [value for value in given if value not in fixed]
    if node.domain not in ("", "ai.onnx") or not all(map(_is_tokens, [*moving, *node.outputs])):
        return False
    if node.op_type == "LayerNormalization":
        return node.attributes.get_int("axis", -1) in (-1, 2)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return all(walk.scalar_of(value) is not None for value in fixed)
    if node.op_type == "Gather":  # of some channels
        return moving == [node.inputs[0]] and node.attributes.get_int("axis", 0) in (-1, 2)
    if node.op_type == "Split":  # into the gate and the value of an MLP
        return node.attributes.get_int("axis", 0) in (-1, 2)
    if node.op_type == "ReduceMean":  # what an RMSNorm divides by
        return [walk.array_of(value).tolist() for value in fixed] in ([[-1]], [[2]])
    if node.op_type == "MatMul":
        return moving == [walk.data_input(node)] and len(walk.dims_of(fixed[0])) == 2
    num_tokens = {walk.dims_of(value)[_TOKENS] for value in (*moving, *node.outputs)}
    return (
        node.op_type in _ELEMENTWISE
        and len(num_tokens) == 1
        and all(_is_same_for_all(value) for value in fixed)
    )


def _is_tokens(value: ir.Value) -> bool:
    """Return whether `value` is known to be (batch, tokens, width), for an image."""
    dims = () if _is_weight(value) else walk.dims_of(value)
    return len(dims) == 3 and isinstance(dims[_TOKENS], int)


def _is_weight(value: ir.Value) -> bool:
    """Return whether `value` is a constant, or one that is dequantized."""
    node = walk.made_by(value, "DequantizeLinear")
    return walk.is_constant(value if node is None else walk.data_input(node))


def _is_same_for_all(constant: ir.Value) -> bool:
    shape = constant.shape
    return shape is not None and (len(shape) < 2 or shape[-2] == 1)
