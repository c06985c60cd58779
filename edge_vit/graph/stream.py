"""Finds the residual stream of a pre-norm transformer: every constant that writes it or reads it.

The stream can be turned by an orthogonal matrix where all that happens to it is known: tokens are
moved, averaged and added, linear layers write it, norms and linear layers read it. What lies
outside the blocks and treats channels otherwise gets its own channels back by one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from edge_vit.graph.sites import Block, find_blocks
from edge_vit.graph.stream_steps import (
    Norm,
    is_last_axis,
    keeps_last_axis,
    moved_axis,
    norm_above,
    norm_of,
    per_channel,
)
from edge_vit.graph.walk import (
    array_shape,
    consumers,
    data_input,
    find_linear,
    is_constant,
    is_movement,
    movement_root,
    other_operand,
    scaled_by,
)

Use = tuple[ir.Node, int]
"""A node, and which of its inputs is meant."""


@dataclass(frozen=True)
class Written:
    """A constant that is added to the stream or makes it.

    Attributes:
        node: that reads the constant.
        index: as which of its inputs.
        axis: of the constant, along which its channels lie, counted from the end; one that it does
            not have, or that is 1 long there, is the same for all channels.
        gains: constants per channel between it and the stream, such as LayerScale.
    """

    node: ir.Node
    index: int
    axis: int
    gains: tuple[ir.Value, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A value that enters the stream from outside, and has to be turned by a product.

    Attributes:
        value: (..., width).
        gains: as `Written.gains`.
        reader: the one that carries it into the stream; None where all readers do.
    """

    value: ir.Value
    gains: tuple[ir.Value, ...] = ()
    reader: Use | None = None


@dataclass(frozen=True)
class Exit:
    """A value that is read in its own channels, and has to be turned back by a product.

    Attributes:
        value: of the stream, or behind a norm.
        norm: the last one on the way; None where there is none.
        readers: all nodes that want its own channels; none where it is an output alone.
    """

    value: ir.Value
    norm: Norm | None
    readers: tuple[Use, ...]


@dataclass
class Stream:
    """The residual stream of a graph.

    Attributes:
        width: its channels.
        values: every value that carries it, (..., width).
        written: constants that write it.
        scales: nodes that multiply what is written by a number per channel: the constants take it.
        norms: that read it.
        reads: MatMul of linear layers that read it, and through which norm.
        entries: what comes from outside.
        exits: what goes outside.
    """

    width: int
    values: list[ir.Value] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    scales: list[ir.Node] = field(default_factory=list)
    norms: list[Norm] = field(default_factory=list)
    reads: list[tuple[ir.Node, Norm | None]] = field(default_factory=list)
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

    Args:
        graph: in canonical form, with the shapes of its values.
    """
    blocks = find_blocks(graph)
    if not blocks:
        return Refusal("no transformer block was found")
    widths = list(dict.fromkeys(_input_width(block) for block in blocks))
    if len(widths) > 1:
        named = ", ".join(map(str, widths))
        return Refusal(f"the model is hierarchical: its stream is {named} channels wide by turns")
    starts = [_start_of(block) for block in blocks]
    for block, start in zip(blocks, starts, strict=True):
        if start is None:
            return Refusal(
                f"no norm stands between the residual stream and the attention of block "
                f"{block.index}, as in post-norm models"
            )
    finder = _Finder(Stream(widths[0]), blocks)
    for start in starts:
        if start is not None:
            finder.add(start)
    finder.run()
    return finder.refusal() or finder.stream


def _input_width(block: Block) -> int:
    weight = block.sites[0].linear.matmul.inputs[1]
    assert weight is not None
    return array_shape(weight)[0]


def _start_of(block: Block) -> ir.Value | None:
    norm = norm_above(movement_root(block.root))
    return None if norm is None else norm.input


def _width(value: ir.Value | None) -> int:
    shape = None if value is None else value.shape
    return shape[-1] if shape is not None and isinstance(shape[-1], int) else 0


class _Finder:
    """Follows a stream from one of its values to all that it is made from and read by."""

    def __init__(self, stream: Stream, blocks: tuple[Block, ...]) -> None:
        self.stream, self._blocks = stream, blocks
        self._open: list[ir.Value] = []
        self._known: set[ir.Value] = set()
        self._writers: list[ir.Node] = []
        self._exits: dict[ir.Value, tuple[Norm | None, list[Use]]] = {}
        self._lost: list[str] = []

    def add(self, value: ir.Value) -> None:
        """Take `value` for part of the stream."""
        if value in self._known:
            return
        self._known.add(value)
        self._open.append(value)

    def run(self) -> None:
        """Follow all that were added."""
        while self._open:
            value = self._open.pop()
            if _width(value) != self.stream.width:
                self._lost.append(f"{value.name} is {_width(value)} channels wide")
                continue
            self.stream.values.append(value)
            shape = value.shape
            assert shape is not None
            self._write(value, len(shape) - 1, ())
            self._read(value, None)
        self.stream.exits = [
            Exit(value, norm, tuple(uses)) for value, (norm, uses) in self._exits.items()
        ]

    def refusal(self) -> Refusal | None:
        """Say what of the stream cannot be turned."""
        if self._lost:
            return Refusal(f"the stream is lost where {self._lost[0]}")
        norms = [norm.output for norm in self.stream.norms]
        below = _reach(norms, lambda value: [v for n in consumers(value) for v in n.outputs])
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
            if len({movement_root(value) for value in inputs}) < 2:
                return Refusal(
                    f"attention and MLP of block {block.index} read one norm, in parallel"
                )
        return None

    def _write(self, value: ir.Value, axis: int, gains: tuple[ir.Value, ...]) -> None:
        """Find the constants that make `value`, whose channels lie along `axis`."""
        node = value.producer()
        if node is None or not self._write_through(node, value, axis, gains):
            self._enter(value, axis, gains)

    def _write_through(
        self, node: ir.Node, value: ir.Value, axis: int, gains: tuple[ir.Value, ...]
    ) -> bool:
        rank = _rank(value)
        if node.op_type == "MatMul":
            linear = find_linear(node)
            if linear is None or axis != rank - 1:
                return False
            self._writers.append(node)
            self.stream.written.append(Written(node, 1, -1, gains))
            return True
        if node.op_type == "Conv":
            if axis != 1 or node.attributes.get_int("group", 1) != 1:
                return False
            if any(v is not None and not is_constant(v) for v in node.inputs[1:]):
                return False
            self._writers.append(node)
            for index in range(1, len(node.inputs)):
                constant = node.inputs[index]
                if constant is not None:  # their first axis is that of the channels
                    rank = len(array_shape(constant))
                    self.stream.written.append(Written(node, index, -rank, gains))
            return True
        if node.op_type in ("Add", "Sub"):
            for index in (0, 1):
                self._operand(node, index, axis - rank, gains)
            return True
        scaled = scaled_by(node)
        if scaled is not None:
            self._operand(node, node.inputs.index(scaled[0]), axis - rank, gains)
            return True
        if node.op_type == "Mul":
            place = per_channel(node, axis - rank, self.stream.width)
            if place is None:
                return False
            gain = node.inputs[place]
            assert gain is not None
            self.stream.scales.append(node)
            self._operand(node, 1 - place, axis - rank, (*gains, gain))
            return True
        if node.op_type == "Concat":
            at = node.attributes.get_int("axis", 0) % rank
            if at == axis:
                return False
            for index in range(len(node.inputs)):
                self._operand(node, index, axis - rank, gains)
            return True
        if node.op_type == "ReduceMean" and keeps_last_axis(node) and axis == rank - 1:
            self._operand(node, 0, -1, gains)
            return True
        if node.op_type == "Expand" or is_movement(node):
            before = moved_axis(node, value, axis)
            if before is None:
                return False
            self._operand(node, 0, before, gains)
            return True
        return False

    def _operand(self, node: ir.Node, index: int, axis: int, gains: tuple[ir.Value, ...]) -> None:
        """Find what makes an input of `node`, whose channels lie along `axis` from the end."""
        value = node.inputs[index]
        assert value is not None
        if is_constant(value):
            self.stream.written.append(Written(node, index, axis, gains))
        elif not gains and axis == -1:
            self.add(value)
        elif len(tuple(value.uses())) > 1 or value.is_graph_output():
            self._enter(value, _rank(value) + axis, gains, (node, index))
        else:
            self._write(value, _rank(value) + axis, gains)

    def _enter(
        self, value: ir.Value, axis: int, gains: tuple[ir.Value, ...], reader: Use | None = None
    ) -> None:
        if axis == _rank(value) - 1:
            self.stream.entries.append(Entry(value, gains, reader))
        else:
            self._lost.append(f"{_maker(value)} makes it")

    def _read(self, value: ir.Value, norm: Norm | None) -> None:
        """Find who reads `value`, of the stream or behind `norm`."""
        if value.is_graph_output():
            self._exits.setdefault(value, (norm, []))
        taken: set[ir.Node] = set()
        for use in tuple(value.uses()):
            node, index = use.node, use.idx
            if node in taken or node.op_type == "Shape":
                continue
            found = norm_of(value, node) if norm is None else None
            if found is not None:
                taken |= found.nodes
                if all(found.output is not other.output for other in self.stream.norms):
                    self.stream.norms.append(found)
                    self._read(found.output, found)
            elif index == 0 and find_linear(node) is not None:
                self.stream.reads.append((node, norm))
            elif keeps_last_axis(node):
                self._pass(node, norm)
            elif norm is None and self._stays(node, value):
                self.add(node.outputs[0])
            else:
                self._exits.setdefault(value, (norm, []))[1].append((node, index))

    def _pass(self, node: ir.Node, norm: Norm | None) -> None:
        for output in node.outputs:
            if norm is None:
                self.add(output)
            else:
                self._read(output, norm)

    def _stays(self, node: ir.Node, value: ir.Value) -> bool:
        """Say whether `node` adds to the stream or scales it, or puts more tokens beside it."""
        if node.op_type in ("Add", "Sub"):
            other = other_operand(node, value)
            return is_last_axis(node.outputs[0], self.stream.width) and other is not value
        if node.op_type == "Concat":
            rank = _rank(node.outputs[0])
            return node.attributes.get_int("axis", 0) % rank != rank - 1
        return scaled_by(node) is not None


def _rank(value: ir.Value) -> int:
    return len(value.shape) if value.shape is not None else 0


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
    above = _reach([data_input(conv)], _made_from)
    makers = (value.producer() for value in above)
    return any(node is not None and node.op_type == "Conv" for node in makers)
