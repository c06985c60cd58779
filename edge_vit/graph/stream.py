"""Finds the residual stream of a pre-norm transformer: every constant that writes it or reads it.

The stream can be turned by an orthogonal matrix where all that happens to it is known: tokens are
moved, averaged and added, linear layers write it, norms and linear layers read it. What lies
outside the blocks and treats channels otherwise gets its own channels back by one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from edge_vit.graph import stream_steps, walk
from edge_vit.graph.sites import Block, find_blocks

Use = tuple[ir.Node, int]  # a node, and which of its inputs is meant

Gains = tuple[ir.Value, ...]
"""Constants per channel between what is written and the stream, such as LayerScale."""


@dataclass(frozen=True)
class Written:
    """A constant, the input `index` of `node`, that is added to the stream or makes it.

    Its channels lie along `axis`, counted from the end; an axis that it does not have, or that is 1
    long there, is the same for all channels.
    """

    node: ir.Node
    index: int
    axis: int
    gains: Gains = ()


@dataclass(frozen=True)
class Entry:
    """A value, (..., width), that enters the stream from outside, and is turned by a product.

    `reader` is the one that carries it into the stream; None where all readers do.
    """

    value: ir.Value
    gains: Gains = ()
    reader: Use | None = None


@dataclass(frozen=True)
class Exit:
    """A value of the stream, or behind a norm, that is read in its own channels by `readers`.

    It is turned back by a product. An output that nothing reads has no readers.
    """

    value: ir.Value
    norm: stream_steps.Norm | None
    readers: tuple[Use, ...]


@dataclass
class Stream:
    """The residual stream of a graph."""

    width: int
    values: list[ir.Value] = field(default_factory=list)  # (..., width)
    written: list[Written] = field(default_factory=list)
    scales: list[ir.Node] = field(default_factory=list)  # whose gains the written constants take
    norms: list[stream_steps.Norm] = field(default_factory=list)
    reads: list[tuple[ir.Node, stream_steps.Norm | None]] = field(
        default_factory=list
    )  # MatMul, through which
    entries: list[Entry] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """Why a graph has no residual stream that can be turned, in one line."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def find_stream(graph: ir.Graph) -> Stream | Refusal:
    """Return the residual stream that all blocks of `graph` read and write, or why there is none.

    The graph is in canonical form, and the shapes of its values are known.
    """
    blocks = find_blocks(graph)
    if not blocks:
        return Refusal("no transformer block was found")
    widths = list(dict.fromkeys(block.sites[0].linear.shape[0] for block in blocks))
    if len(widths) > 1:
        named = ", ".join(map(str, widths))
        return Refusal(f"the model is hierarchical: its stream is {named} channels wide by turns")
    finder = _Finder(Stream(widths[0]), blocks)
    for block in blocks:
        norm = stream_steps.norm_above(walk.movement_root(block.root))
        if norm is None:
            return Refusal(
                f"no norm stands between the residual stream and the attention of block "
                f"{block.index}, as in post-norm models"
            )
        finder.add(norm.input)
    finder.run()
    return finder.refusal() or finder.stream


class _Finder:
    """Follows a stream from one of its values to all that it is made from and read by."""

    def __init__(self, stream: Stream, blocks: tuple[Block, ...]) -> None:
        self.stream, self._blocks = stream, blocks
        self._open: list[ir.Value] = []
        self._known: set[ir.Value] = set()
        self._writers: list[ir.Node] = []
        self._exits: dict[ir.Value, tuple[stream_steps.Norm | None, list[Use]]] = {}
        self._lost: list[str] = []

    def add(self, value: ir.Value) -> None:
        """Take `value` for part of the stream."""
        if value not in self._known:
            self._known.add(value)
            self._open.append(value)

    def run(self) -> None:
        """Follow all that were added."""
        while self._open:
            value = self._open.pop()
            dims = walk.dims_of(value)
            if dims[-1:] != (self.stream.width,):
                width = dims[-1] if dims and isinstance(dims[-1], int) else 0
                self._lost.append(f"{value.name} is {width} channels wide")
                continue
            self.stream.values.append(value)
            self._write(value, len(dims) - 1, ())
            self._read(value, None)
        self.stream.exits = [
            Exit(value, norm, tuple(uses)) for value, (norm, uses) in self._exits.items()
        ]

    def refusal(self) -> Refusal | None:
        """Return what of the stream cannot be turned."""
        if self._lost:
            return Refusal(f"the stream is lost where {self._lost[0]}")
        norms = [norm.output for norm in self.stream.norms]
        below = _reach(norms, lambda value: [v for n in walk.consumers(value) for v in n.outputs])
        above = _reach(self.stream.values, _made_from)
        for entry in self.stream.entries:
            if entry.value in below:
                return Refusal(f"{_maker(entry.value)} writes the stream, and is no linear layer")
        for leaving in self.stream.exits:
            for node, _ in leaving.readers:
                if any(value in above for value in node.outputs):
                    return Refusal(
                        f"{node.name} reads the stream's channels otherwise than by a norm"
                    )
        mine = {site.linear.matmul for b in self._blocks for site in b.sites}
        for node in self._writers:
            if node.op_type == "MatMul" and node not in mine and node.outputs[0] in below:
                return Refusal(f"{node.name} writes the stream, and belongs to no block")
            if node.op_type == "Conv" and _is_behind_convolution(node):
                return Refusal(f"{node.name} writes the stream behind other convolutions: a hybrid")
        for block in self._blocks:
            inputs = [s.linear.input for s in block.sites if s.role in ("qkv", "fc1")]
            if len({walk.movement_root(value) for value in inputs}) < 2:
                return Refusal(
                    f"attention and MLP of block {block.index} read one norm, in parallel"
                )
        return None

    def _write(self, value: ir.Value, axis: int, gains: Gains) -> None:
        """Find the constants that make `value`, whose channels lie along `axis`."""
        node = value.producer()
        if node is None or not self._write_through(node, value, axis, gains):
            self._enter(value, axis, gains)

    def _write_through(self, node: ir.Node, value: ir.Value, axis: int, gains: Gains) -> bool:
        rank = len(walk.dims_of(value))
        behind = axis - rank  # from the end
        if node.op_type == "MatMul":
            if walk.find_linear(node) is None or behind != -1:
                return False
            self._writers.append(node)
            self.stream.written.append(Written(node, 1, -1, gains))
            return True
        if node.op_type == "Conv":
            given = [(i, v) for i, v in enumerate(node.inputs) if i and v is not None]
            is_plain = node.attributes.get_int("group", 1) == 1
            if axis != 1 or not is_plain or not all(walk.is_constant(v) for _, v in given):
                return False
            self._writers.append(node)
            for index, constant in given:  # their first axis is that of the channels
                first = -len(walk.array_shape(constant))
                self.stream.written.append(Written(node, index, first, gains))
            return True
        if node.op_type in ("Add", "Sub"):
            for index in (0, 1):
                self._operand(node, index, behind, gains)
            return True
        scaled = walk.scaled_by(node)
        if scaled is not None:
            self._operand(node, node.inputs.index(scaled[0]), behind, gains)
            return True
        if node.op_type == "Mul":
            place = stream_steps.per_channel(node, behind, self.stream.width)
            if place is None:
                return False
            self.stream.scales.append(node)
            self._operand(node, 1 - place, behind, (*gains, walk.data_input(node, place)))
            return True
        if node.op_type == "Concat":
            if node.attributes.get_int("axis", 0) % rank == axis:
                return False
            for index in range(len(node.inputs)):
                self._operand(node, index, behind, gains)
            return True
        if node.op_type == "ReduceMean" and stream_steps.keeps_last_axis(node) and behind == -1:
            self._operand(node, 0, -1, gains)
            return True
        before = None
        if node.op_type == "Expand" or walk.is_movement(node):
            before = stream_steps.moved_axis(node, value, axis)
        if before is not None:
            self._operand(node, 0, before, gains)
        return before is not None

    def _operand(self, node: ir.Node, index: int, axis: int, gains: Gains) -> None:
        """Find what makes an input of `node`, whose channels lie along `axis` from the end."""
        value = walk.data_input(node, index)
        if walk.is_constant(value):
            self.stream.written.append(Written(node, index, axis, gains))
        elif not gains and axis == -1:
            self.add(value)
        elif walk.is_read_once(value):
            self._write(value, len(walk.dims_of(value)) + axis, gains)
        else:
            self._enter(value, len(walk.dims_of(value)) + axis, gains, (node, index))

    def _enter(self, value: ir.Value, axis: int, gains: Gains, reader: Use | None = None) -> None:
        if axis == len(walk.dims_of(value)) - 1:
            self.stream.entries.append(Entry(value, gains, reader))
        else:
            self._lost.append(f"{_maker(value)} makes it")

    def _read(self, value: ir.Value, norm: stream_steps.Norm | None) -> None:
        """Find the readers of `value`, of the stream or behind `norm`."""
        if value.is_graph_output():
            self._exits.setdefault(value, (norm, []))
        taken: set[ir.Node] = set()
        for use in tuple(value.uses()):
            node, index = use.node, use.idx
            if node in taken or node.op_type == "Shape":
                continue
            found = stream_steps.norm_of(value, node) if norm is None else None
            if found is not None:
                taken |= found.nodes
                if all(found.output is not other.output for other in self.stream.norms):
                    self.stream.norms.append(found)
                    self._read(found.output, found)
            elif index == 0 and walk.find_linear(node) is not None:
                self.stream.reads.append((node, norm))
            elif stream_steps.keeps_last_axis(node):
                for output in node.outputs:
                    if norm is None:
                        self.add(output)
                    else:
                        self._read(output, norm)
            elif norm is None and self._stays(node, value):
                self.add(node.outputs[0])
            else:
                self._exits.setdefault(value, (norm, []))[1].append((node, index))

    def _stays(self, node: ir.Node, value: ir.Value) -> bool:
        """Return whether `node` adds to the stream or scales it, or puts more tokens beside it."""
        dims = walk.dims_of(node.outputs[0])
        if node.op_type in ("Add", "Sub"):
            is_as_wide = dims[-1:] == (self.stream.width,)
            return is_as_wide and walk.other_operand(node, value) is not value
        if node.op_type == "Concat":
            return node.attributes.get_int("axis", 0) % len(dims) != len(dims) - 1
        return walk.scaled_by(node) is not None


def _maker(value: ir.Value) -> str:
    node = value.producer()
    return (node.name if node is not None else value.name) or ""


def _made_from(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [] if node is None else [v for v in node.inputs if v is not None]


def _reach(
    start: Iterable[ir.Value], step: Callable[[ir.Value], Iterable[ir.Value]]
) -> set[ir.Value]:
    """Return `start` and all that `step` leads to from there."""
    seen, todo = set(start), list(start)
    while todo:
        for value in step(todo.pop()):
            if value not in seen:
                seen.add(value)
                todo.append(value)
    return seen


def _is_behind_convolution(conv: ir.Node) -> bool:
    above = _reach([walk.data_input(conv)], _made_from)
    makers = (value.producer() for value in above)
    return any(node is not None and node.op_type == "Conv" for node in makers)
