"""Chooses the linear layers outside of blocks that may be quantized, whatever stands around them.

Attention over channels, two attentions side by side, pooled keys, mixers without attention: their
linear layers work on tokens as those of a block do, and calibration judges each by what it costs.
What is computed for queries that are learned or picked, as in a detector's decoder, is left out:
there an error moves a choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod

import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.channels import find_channel_source
from edge_vit.graph.sites import Block, Linears, Unit, find_attentions, linears_above
from edge_vit.graph.walk import Linear

_FEWEST_CHANNELS = 16  # below, INT8 products have nothing to gain
_PICKING = frozenset({"TopK", "GatherElements", "GatherND", "GridSample", "NonMaxSuppression"})


def choose_beside(graph: ir.Graph, blocks: Collection[Block]) -> tuple[tuple[Linear, ...], ...]:
    """Return the linear layers on tokens beside `blocks`, those of one unit together.

    The graph is in topological order, and the shapes of its values are known.
    """
    if any(node.op_type == "TopK" for node in graph):
        return ()  # queries are picked by scores, which an error in front of them moves
    linears = walk.find_linears(graph)
    placed = {site.linear.matmul for block in blocks for site in block.sites}
    excluded = placed | _for_queries(graph, linears) | _smoothed_by(blocks)
    of_image = _below(graph.inputs)
    groups: list[list[Linear]] = []
    unit_of: dict[ir.Node, list[Linear]] = {}
    first_reader: dict[ir.Value, list[Linear]] = {}
    for node, linear in linears.items():
        if node in excluded or node not in of_image or not _is_on_tokens(linear):
            continue
        source = find_channel_source(linear.input, linear.shape[0])
        above = source.matmul if source is not None else None
        if above in placed:
            continue  # that block's columns would have to be smoothed by another unit
        group = first_reader.get(linear.input) or (unit_of.get(above) if above else None)
        if group is None:
            group = []
            groups.append(group)
        group.append(linear)
        unit_of[node] = first_reader[linear.input] = group
    return tuple(map(tuple, groups))


def describe_rest(graph: ir.Graph, units: Collection[Unit]) -> str:
    """Return what of `graph` is in no unit, such as ``3 attentions, 21 convolutions``."""
    mine = {site.linear.matmul for unit in units for site in unit.sites}
    placed = {unit.attention.softmax for unit in units if isinstance(unit, Block)}
    every = tuple(find_attentions(graph))
    attentions = [a for a in every if a.softmax not in placed]
    products = {node for a in every for node in (a.scores, a.context)}
    others = [n for n in graph if n.op_type == "MatMul" and n not in mine and n not in products]
    counts = {
        "attention": len(attentions),
        "convolution": sum(node.op_type == "Conv" for node in graph),
        "other product": len(others),
    }
    return ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count
    )


def _is_on_tokens(linear: Linear) -> bool:
    """Return whether the layer takes several tokens of an image, and enough channels."""
    tokens = walk.dims_of(linear.output)[1:-1]
    known = [dim for dim in tokens if isinstance(dim, int)]
    return len(known) == len(tokens) and prod(known) > 1 and min(linear.shape) >= _FEWEST_CHANNELS


def _for_queries(graph: ir.Graph, linears: Linears) -> set[ir.Node]:
    """Return the nodes that work for queries, and the layers that make keys and values for them."""
    starts = [value for node in graph if node.op_type in _PICKING for value in node.outputs]
    feeding: set[ir.Node] = set()
    for attention in find_attentions(graph, has_constants=True):
        makers = [linears_above(value, linears) for value in attention.operands]
        queries, keys, _ = (
            {walk.movement_root(linear.input) for linear in found.values()} for found in makers
        )
        # Pooled keys are made from what the queries are made from, a decoder's are not.
        if not queries or not (queries & keys or queries & _above(keys)):
            starts.append(attention.context.outputs[0])
            feeding.update(node for found in makers for node in found)
    return _below(starts) | feeding


def _below(values: Iterable[ir.Value]) -> set[ir.Node]:
    """Return all nodes that read the numbers of `values`, or what is made of them."""
    found, todo = set[ir.Node](), list(values)
    while todo:
        for node in walk.consumers(todo.pop()):
            if node not in found and node.op_type != "Shape":
                found.add(node)
                todo.extend(node.outputs)
    return found


def _above(values: Iterable[ir.Value]) -> set[ir.Value]:
    """Return all values that `values` are made from."""
    seen, todo = set[ir.Value](), list(values)
    while todo:
        node = todo.pop().producer()
        for value in walk.operands(node) if node is not None else ():
            if value not in seen:
                seen.add(value)
                todo.append(value)
    return seen


def _smoothed_by(blocks: Iterable[Block]) -> set[ir.Node]:
    """Return the layers whose columns take the factors of a block's layer."""
    sites = [site.linear for block in blocks for site in block.sites]
    sources = (find_channel_source(linear.input, linear.shape[0]) for linear in sites)
    return {source.matmul for source in sources if source is not None and source.matmul is not None}
