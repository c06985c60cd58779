"""Where elements come from, between a linear layer and an attention.

Positions of elements are sent through the moves themselves, so that no way of writing them has to
be known. What is more than a move, such as rotary positions or a norm of queries and keys, is a
subgraph that stays as it is; it is enough to know the value that it starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.probe import runner_of
from edge_vit.graph import walk
from edge_vit.graph.walk import Array

_LINEAR = frozenset(
    {"Slice", "Split", "Reshape", "Transpose", "Gather", "Squeeze", "Unsqueeze", "Identity"}
    | {"Neg", "Concat", "Add", "Sub", "Mul", "Div"}
)


@dataclass(frozen=True)
class Subgraph:
    """A part of the graph with one value to start from and one to end in."""

    source: ir.Value  # the value that `start` is a mere rearrangement of
    moves: tuple[ir.Node, ...]  # from `source` to `start`; some multiply all by one number
    factor: float  # product of the numbers among `moves`
    start: ir.Value  # the last value of which all else is made
    nodes: frozenset[ir.Node]  # between `start` and the end; empty where that is the same

    @property
    def is_linear(self) -> bool:
        """Whether a factor on `start` is the same factor on the end."""
        return all(map(_is_linear, self.nodes))

    def positions(self, shape: Sequence[int]) -> Array:
        """Return where the elements of `source`, of `shape`, are in `start`, as `move` does."""
        return move(self.moves, self.source, self.start, shape)

    def start_from(self, value: ir.Value) -> None:
        """Let the nodes read `value` in place of `start`."""
        for node in self.nodes:
            for index, read in enumerate(node.inputs):
                if read is self.start:
                    node.replace_input_with(index, value)


def trace_back(end: ir.Value, sources: Iterable[ir.Value]) -> Subgraph | None:
    """Return the subgraph that makes `end` of one of `sources`; None where more goes into it."""
    wanted, found, cone = frozenset(sources), set[ir.Value](), set[ir.Node]()
    stack = [end]
    while stack:
        value = stack.pop()
        if value in wanted:
            found.add(value)
            continue
        node = value.producer()
        if node is None:
            return None  # an input of the graph
        if node not in cone:
            cone.add(node)
            stack.extend(walk.operands(node))
    if len(found) != 1:
        return None
    (source,) = found
    start, moves, factor = source, list[ir.Node](), 1.0
    while start is not end:
        readers = [node for node in dict.fromkeys(walk.consumers(start)) if node in cone]
        scaled = walk.scaled_by(readers[0]) if len(readers) == 1 else None
        if len(readers) != 1 or not (scaled or walk.is_movement(readers[0])):
            break
        (node,) = readers
        outputs = [v for v in node.outputs if v is end or any(r in cone for r in walk.consumers(v))]
        if len(outputs) != 1:
            break
        factor *= scaled[1] if scaled else 1.0
        moves.append(node)
        cone.discard(node)
        (start,) = outputs
    return Subgraph(source, tuple(moves), factor, start, frozenset(cone))


def move(nodes: Sequence[ir.Node], source: ir.Value, end: ir.Value, shape: Sequence[int]) -> Array:
    """Return the flat positions of the elements of `source`, of `shape`, where `nodes` move them.

    `end` is what `nodes` make.
    """
    positions = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    if not nodes:
        return positions
    return runner_of(nodes, source, end, positions.dtype, scales=False)(positions)


def _is_linear(node: ir.Node) -> bool:
    constants = [walk.is_constant(value) for value in node.inputs]
    if node.op_type in ("Add", "Sub", "Concat"):
        return not any(constants)
    if node.op_type in ("Mul", "Div"):
        return constants[1] or (node.op_type == "Mul" and constants[0])
    return node.op_type in _LINEAR and all(constants[1:])
