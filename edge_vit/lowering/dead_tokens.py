"""Leaves out what is computed for dead tokens: those that no output reads.

A classifier reads one token. Behind the last attention no token looks at another, so projection,
MLP and norms there are wanted for that token alone: a sixteenth of the work of 12 blocks.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph.constant import add_constant, new_node
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import array_of, consumers, data_input, is_constant, scalar_of

_TOKENS = 1  # axis of (batch, tokens, width)
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Relu", "Gelu", "Cast"}
    | {"Neg", "Reciprocal"}
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


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
    """Return the linear layers that one token is wanted from, by site name.

    They take next to no time in any precision: `drop_dead_tokens` leaves them that token.

    Args:
        model: the fp32 graph in canonical form; it is not changed.
    """
    copy = ir.from_proto(model)
    if not drop_dead_tokens(copy.graph):
        return frozenset()
    shapes = {site.name: site.linear.output.shape for site in find_sites(copy.graph)}
    return frozenset(n for n, s in shapes.items() if s is not None and len(s) == 3 and s[1] == 1)


def _picked(node: ir.Node) -> int | None:
    """Return which token `node` takes, where it takes one."""
    value = node.inputs[0] if node.inputs else None
    if node.op_type != "Gather" or not _is_tokens(value):
        return None
    if value is None or value.shape is None or value.shape[_TOKENS] == 1:  # nothing to drop
        return None
    axis, index = node.attributes.get("axis"), scalar_of(node.inputs[1])
    if axis is None or axis.as_int() != _TOKENS or index is None:
        return None
    return int(index)


def _computed_for(pick: ir.Node) -> list[ir.Node]:
    """Return the nodes that work on each token by itself, for `pick` alone; last one first."""
    readers, found = {pick}, []
    graph = pick.graph
    assert graph is not None
    for node in reversed(list(graph)):
        values = node.outputs
        is_read_by_them = all(
            not value.is_graph_output() and set(consumers(value)) <= readers for value in values
        )
        if is_read_by_them and any(value.uses() for value in values) and _is_by_token(node):
            readers.add(node)
            found.append(node)
    return found


def _narrow(graph: ir.Graph, pick: ir.Node, token: int, nodes: list[ir.Node]) -> None:
    """Let `nodes` read `token` alone, and `pick` the only one that is left."""
    which = pick.inputs[1]
    assert which is not None
    ends = [add_constant(graph, f"read/{name}", np.array([at])) for name, at in _ends(token)]
    inside = set(nodes)
    cut: dict[ir.Value, ir.Value] = {}
    for node in reversed(nodes):
        for index, value in enumerate(node.inputs):
            if value is None or not _is_tokens(value) or value.producer() in inside:
                continue
            if value not in cut:
                slice_ = new_node("Slice", f"read/{len(cut)}", [value, *ends])
                cut[value] = slice_.outputs[0]
                cut[value].type, cut[value].shape = value.type, _one_token(value)
                graph.insert_before(node, slice_)
            node.replace_input_with(index, cut[value])
        for output in node.outputs:
            output.shape = _one_token(output)
    only = np.zeros_like(array_of(which))
    pick.replace_input_with(1, add_constant(graph, "read/only", only))


def _one_token(value: ir.Value) -> ir.Shape:
    assert value.shape is not None
    return ir.Shape([value.shape[0], 1, value.shape[2]])


def _ends(token: int) -> tuple[tuple[str, int], ...]:
    """Return what a Slice reads behind its data."""
    last = token + 1 or np.iinfo(np.int64).max  # behind token -1 there is the end
    return ("start", token), ("end", last), ("axis", _TOKENS)


def _is_by_token(node: ir.Node) -> bool:
    """Whether each token that `node` makes depends on the same token of its inputs alone."""
    moving = [value for value in node.inputs if value is not None and not _is_weight(value)]
    if node.domain not in ("", "ai.onnx") or not all(map(_is_tokens, [*moving, *node.outputs])):
        return False
    fixed = [value for value in node.inputs if value is not None and _is_weight(value)]
    if node.op_type == "LayerNormalization":
        axis = node.attributes.get("axis")
        return axis is None or axis.as_int() in (-1, 2)
    if node.op_type in _QUANTIZERS:
        return all(scalar_of(value) is not None for value in fixed)
    if node.op_type == "Split":  # into the gate and the value of an MLP
        return node.attributes.get_int("axis", 0) in (-1, 2)
    if node.op_type == "ReduceMean":  # what an RMSNorm divides by
        return [array_of(value).tolist() for value in fixed] in ([[-1]], [[2]])
    if node.op_type == "MatMul":
        return moving == [data_input(node)] and len(fixed[0].shape or ()) == 2
    num_tokens = {value.shape[_TOKENS] for value in (*moving, *node.outputs) if value.shape}
    return (
        node.op_type in _ELEMENTWISE
        and len(num_tokens) == 1
        and all(_is_same_for_all(value) for value in fixed)
    )


def _is_tokens(value: ir.Value | None) -> bool:
    """Whether `value` is known to be (batch, tokens, width), for an image."""
    shape = None if value is None or _is_weight(value) else value.shape
    return shape is not None and len(shape) == 3 and isinstance(shape[_TOKENS], int)


def _is_weight(value: ir.Value) -> bool:
    """Whether `value` is a constant, or one that is dequantized."""
    node = value.producer()
    if node is not None and node.op_type == "DequantizeLinear":
        return is_constant(data_input(node))
    return is_constant(value)


def _is_same_for_all(constant: ir.Value) -> bool:
    """Whether `constant` is broadcast over the tokens."""
    shape = constant.shape
    return shape is not None and (len(shape) < 2 or shape[-2] == 1)
