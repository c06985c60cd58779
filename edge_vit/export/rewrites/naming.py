"""Names nodes and weights by place, so that an engine's layers can be mapped back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx_ir as ir

from edge_vit.graph.sites import Block
from edge_vit.graph.walk import Linear, constant_index, consumers, is_constant


def forget_names(graph: ir.Graph, place: str = "source") -> None:
    """Give every value but the inputs and outputs a name that no later stage gives.

    Names in a file are anybody's; some may be those that nodes and weights get by place. The graphs
    of branches are renamed too; all names begin with `place`.
    """
    constants = list(graph.initializers.values())
    graph.initializers.clear()
    for number, value in enumerate(constants):
        value.name = f"{place}/constant{number}"
        if value.const_value is not None:
            value.const_value.name = value.name
        graph.register_initializer(value)
    for number, node in enumerate(graph):
        node.name = f"{place}/node{number}"
        for index, value in enumerate(node.outputs):
            if not value.is_graph_output() or place != "source":
                value.name = f"{place}/value{number}_{index}"
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                forget_names(attribute.as_graph(), f"{node.name}/{attribute.name}")


def name_by_place(
    graph: ir.Graph, blocks: tuple[Block, ...], beside: Sequence[Sequence[Linear]] = ()
) -> None:
    """Rename every node, value and initializer: ``embed/…``, ``block3/fc1``, ``head/…``.

    `graph` must be in topological order. `beside`: linear layers beside the blocks, by unit, which
    become ``layers0/linear1`` and the like.
    """
    places = _find_places(graph, blocks)
    used: Counter[str] = Counter()
    for index, group in enumerate(beside):
        for number, linear in enumerate(group):
            name = f"layers{index}/linear{number if len(group) > 1 else ''}"
            places[linear.matmul] = name
            if linear.add is not None:
                places[linear.add] = f"{name}/bias"
    for block in blocks:
        attention = block.attention
        for name in ("scores", "softmax", "context"):
            places[getattr(attention, name)] = f"block{block.index}/{name}"
        for site in block.sites:
            places[site.linear.matmul] = site.name
            if site.linear.add is not None:
                places[site.linear.add] = f"{site.name}/bias"
    for node in graph:
        name = places[node]
        if "/" not in name:
            name = f"{name}/{node.op_type}"
            used[name] += 1
            name = name if used[name] == 1 else f"{name}_{used[name]}"
        node.name = name
        for index, output in enumerate(node.outputs):
            if not output.is_graph_output():
                output.name = f"{name}:{index}"
        for index, value in enumerate(node.inputs):
            if value is not None and is_constant(value):
                _rename_initializer(graph, value, f"{name}.{index}")


def _find_places(graph: ir.Graph, blocks: tuple[Block, ...]) -> dict[ir.Node, str]:
    """Return ``embed``, ``block3`` or ``head`` for each node.

    A node belongs to the block of the next linear layer of a block, except that what follows the
    last layer of a block up to the residual addition still belongs to that block.
    """
    site_block = {site.linear.matmul: block.index for block in blocks for site in block.sites}
    tails = {node: block.index for block in blocks for node in _tail(block)}
    first_root = blocks[0].root.producer() if blocks else None
    places: dict[ir.Node, str] = {}
    current: int | None = None
    for node in reversed(list(graph)):
        current = site_block.get(node, current)
        place = "head" if current is None else f"block{current}"
        places[node] = f"block{tails[node]}" if node in tails else place
    is_embedding = True
    for node in graph:
        if node is first_root or node in site_block:
            is_embedding = False
        if is_embedding:
            places[node] = "embed"
    return places


def _tail(block: Block) -> list[ir.Node]:
    """Return the nodes from the block's last linear layer to its residual addition."""
    tail: list[ir.Node] = []
    last = block.sites[-1].role  # fc2; proj of an attention without an MLP behind it
    values = [linear.matmul.outputs[0] for linear in block.linears(last)]
    while values:
        for node in consumers(values.pop()):
            if node in tail:
                continue
            tail.append(node)
            if node.op_type != "Add" or constant_index(node) >= 0:  # else it is the residual
                values.extend(node.outputs)
    return tail


def _rename_initializer(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Call the initializer `value` `name`, unless an earlier reader has named it."""
    assert value.name is not None
    if value.meta.get("named"):
        return
    del graph.initializers[value.name]
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    value.meta["named"] = True
    graph.register_initializer(value)
