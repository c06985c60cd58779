"""Finds the blocks of a Vision Transformer by structure: attention, linear layers, residuals.

Nothing here looks at a node's name. A block is a self-attention (a softmax between two products of
activations, fed by linear layers that share one input), the linear layer that its result goes
through, and the two linear layers of the MLP that follows. An attention whose queries are not made
from the same tokens as its keys, such as the attention pooling of SigLIP, is no block. Where two
attentions share one MLP, as time before space in video models, the first is a block without one.
Other linear layers on tokens were chosen when the graph was made canonical: their names tell.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from edge_vit.graph import walk
from edge_vit.graph.walk import Linear

Role = Literal["qkv", "proj", "fc1", "fc2", "linear"]
Linears = dict[ir.Node, Linear]

_NORMALISING = frozenset(
    {"LayerNormalization", "RMSNormalization", "Cast", "Mul", "Div", "Pow", "ReduceMean", "Sqrt"}
    | {"Reciprocal", "Sub"}
)
"""What a norm is made of; RMSNorm has no operator of its own in opset 19."""

_BESIDE_BLOCKS = re.compile(r"layers(\d+)/linear\d*")

_BESIDE_SOFTMAX = frozenset({"Mul", "Div", "Add", "Sub", "Where", "Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class Attention:
    """One attention: ``context = softmax(scores) @ value``."""

    scores: ir.Node  # the MatMul of queries and keys
    softmax: ir.Node
    context: ir.Node  # the MatMul of probabilities and values

    @property
    def operands(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values, as they are read."""
        return (
            walk.data_input(self.scores),
            walk.data_input(self.scores, 1),
            walk.data_input(self.context, 1),
        )


@dataclass(frozen=True)
class Site:
    """A linear layer that quantization may touch, named by place, such as ``block3/fc1``.

    Where a block has several layers of a role (queries, keys and values apart, a gated MLP), their
    names end in a number. One beside the blocks is called ``layers0/linear1``.
    """

    name: str
    role: Role
    linear: Linear


@dataclass(frozen=True)
class Unit:
    """Linear layers that are calibrated together: those of a block, or some beside the blocks.

    All of them are below `root`. A layer beside the blocks is in one unit with what it shares its
    input with, of a block too, and with the layer that its input can be smoothed by; the order is
    the graph's.
    """

    index: int  # among the blocks, or among those beside them
    root: ir.Value
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Block(Unit):
    """One transformer block.

    `root` is the value that queries, keys and values are made from, (batch, tokens, width); of
    another rank where attention is within windows. `sites` are in the order qkv, proj, fc1, fc2,
    and end with layers beside the block that read what one of them reads.
    """

    attention: Attention

    def linears(self, role: Role) -> tuple[Linear, ...]:
        """Return the linear layers that play `role`."""
        return tuple(site.linear for site in self.sites if site.role == role)


def find_blocks(graph: ir.Graph) -> tuple[Block, ...]:
    """Return the transformer blocks of `graph`, first to last.

    Linear layers must be MatMul, with or without Add; weights must be constant.
    """
    linears, attentions = walk.find_linears(graph), tuple(find_attentions(graph))
    made_by = [
        {node for operand in each.operands for node in linears_above(operand, linears)}
        for each in attentions
    ]
    taken = set[ir.Node]().union(*made_by)
    blocks: list[Block] = []
    for attention in attentions:
        block = _find_block(len(blocks), attention, linears, taken, made_by)
        if block is not None:
            blocks.append(block)
            taken.update(site.linear.matmul for site in block.sites)
    return tuple(blocks)


def find_units(graph: ir.Graph) -> tuple[Unit, ...]:
    """Return the blocks of `graph` and its other units of linear layers, first to last."""
    groups = defaultdict[int, list[Site]](list)
    for node, linear in walk.find_linears(graph).items():
        if found := _BESIDE_BLOCKS.fullmatch(node.name or ""):
            groups[int(found[1])].append(Site(found[0], "linear", linear))
    units: list[Unit] = [*find_blocks(graph)]
    reader = {site.linear.input: i for i, block in enumerate(units) for site in block.sites}
    for index, sites in groups.items():
        root = sites[0].linear.input
        if root in reader:  # smoothed and calibrated with the block's layers that read it
            block = units[reader[root]]
            units[reader[root]] = replace(block, sites=(*block.sites, *sites))
        else:
            units.append(Unit(index, root, tuple(sites)))
    order = {node: place for place, node in enumerate(graph)} if groups else {}
    return tuple(sorted(units, key=lambda unit: order.get(unit.sites[0].linear.matmul, 0)))


def find_sites(graph: ir.Graph) -> tuple[Site, ...]:
    """Return the linear layers of every unit of `graph`, first to last."""
    return tuple(site for unit in find_units(graph) for site in unit.sites)


def find_attentions(graph: ir.Graph, *, has_constants: bool = False) -> Iterator[Attention]:
    """Yield every softmax between two products of activations, self-attention or not.

    With `has_constants` the queries may be constants, as where a learned query pools all tokens.
    """
    for node in graph:
        if node.op_type == "Softmax":
            scores = _product_above(walk.data_input(node), 1 if has_constants else 2)
            context = _product_below(node.outputs[0])
            if scores is not None and context is not None:
                yield Attention(scores, node, context)


def _product_above(value: ir.Value, num_operands: int) -> ir.Node | None:
    node = walk.made_by(value, "MatMul", *_BESIDE_SOFTMAX)
    if node is None:
        return None
    if node.op_type == "MatMul":
        return node if len(walk.operands(node)) >= num_operands else None
    found = (_product_above(operand, num_operands) for operand in walk.operands(node))
    return next((product for product in found if product is not None), None)


def _product_below(value: ir.Value) -> ir.Node | None:
    for node in walk.consumers(value):
        if node.op_type == "MatMul" and walk.data_input(node) is value:
            return node
        if node.op_type in _BESIDE_SOFTMAX:
            found = _product_below(node.outputs[0])
            if found is not None:
                return found
    return None


def _find_block(
    index: int,
    attention: Attention,
    linears: Linears,
    taken: Set[ir.Node],
    attentions: Sequence[Set[ir.Node]],
) -> Block | None:
    """Return the block around `attention`.

    No MLP begins with one of `taken`, which make any attention's queries, keys and values or are an
    earlier block's; `attentions` holds those of each attention.
    """
    qkv: Linears = {}
    for operand in attention.operands:
        found = linears_above(operand, linears)
        if not found:
            return None  # made from a constant, as a learned query is
        qkv.update(found)
    root = _find_root(list(qkv.values()))
    proj = _linears_below(attention.context.outputs[0], linears, _any_but_residual)
    if root is None or len(proj) != 1:
        return None
    residual = _residual_below(next(iter(proj.values())).output)
    fc1, fc2 = _find_mlp(residual, walk.movement_root(root), linears, taken)
    if not (fc1 and fc2) and not _leads_to_attention(residual, linears, attentions):
        return None
    roles: dict[Role, Linears] = {"qkv": qkv, "proj": proj, "fc1": fc1, "fc2": fc2}
    sites = tuple(
        Site(f"block{index}/{role}{number if len(group) > 1 else ''}", role, linear)
        for role, group in roles.items()
        for number, linear in enumerate(group.values())
    )
    return Block(index, root, sites, attention)


def _find_root(linears: list[Linear]) -> ir.Value | None:
    """Return the value that `linears` read mere rearrangements of; None without one.

    Where no norm stands between, that would be the convolution of the patches, (batch, width, rows,
    columns): then it is what has become (batch, tokens, width) on the way.
    """
    chains = [walk.movement_chain(linear.input) for linear in linears]
    first = chains[0][0]
    if any(chain[0] is not first for chain in chains):
        return _without_positions([chain[0] for chain in chains])
    if walk.made_by(first, "Conv") is not None:
        for value in chains[0]:
            dims = walk.dims_of(value)
            if len(dims) == 3 and dims[-1] == linears[0].shape[0]:
                return value if all(value in chain for chain in chains) else first
    return first


def _without_positions(values: list[ir.Value]) -> ir.Value | None:
    """Return the tokens that all `values` are, but for constant positions added to some of them.

    DETR adds them to queries and keys in every layer.
    """
    tokens: ir.Value | None = None
    roots = set[ir.Value]()
    for value in values:
        node = walk.made_by(value, "Add")
        if node is not None and len(walk.operands(node)) == 1:
            value = tokens = walk.operands(node)[0]
        roots.add(walk.movement_root(value))
    return tokens if len(roots) == 1 else None


def _find_mlp(
    residual: ir.Value | None, root: ir.Value, linears: Linears, taken: Set[ir.Node]
) -> tuple[Linears, Linears]:
    """Return the MLP's first and second layers: behind the residual, or beside the attention."""
    for start in (residual, root):
        if start is None:
            continue
        fc1 = _linears_below(start, linears, _normalises)
        fc1 = {node: linear for node, linear in fc1.items() if node not in taken}
        fc2: Linears = {}
        for linear in fc1.values():
            fc2.update(_linears_below(linear.output, linears, _any_but_residual))
        if fc1 and len(fc2) == 1:
            return fc1, fc2
    return {}, {}


def _leads_to_attention(
    residual: ir.Value | None, linears: Linears, attentions: Sequence[Set[ir.Node]]
) -> bool:
    """Return whether what comes next is another self-attention, as with time before space.

    Then the attention shares that one's MLP. All of the next queries, keys and values are made of
    the residual stream, with or without a class token beside it.
    """
    if residual is None:
        return False
    found = _linears_below(residual, linears, lambda n: n.op_type == "Concat" or _normalises(n))
    return any(nodes and nodes <= found.keys() for nodes in attentions)


def linears_above(value: ir.Value, linears: Linears) -> Linears:
    """Return the nearest linear layers that `value` is made from."""
    found: Linears = {}
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if node in linears:
            found[node] = linears[node]
        else:
            stack.extend(walk.operands(node))
    return found


def _linears_below(value: ir.Value, linears: Linears, passes: Callable[[ir.Node], bool]) -> Linears:
    """Return the nearest linear layers that `value` reaches through nodes that `passes` admits."""
    found: Linears = {}
    seen: set[ir.Node] = set()
    stack = [value]
    while stack:
        for node in walk.consumers(stack.pop()):
            if node in seen:
                continue
            seen.add(node)
            if node in linears:
                found[node] = linears[node]
            elif passes(node):
                stack.extend(node.outputs)
    return found


def _normalises(node: ir.Node) -> bool:
    if node.op_type == "Add":
        # adaLN's shift is one vector for all tokens
        return walk.constant_index(node) >= 0 or len(set(map(_is_per_image, node.inputs))) == 2
    return node.op_type in _NORMALISING or walk.is_movement(node)


def _is_per_image(value: ir.Value | None) -> bool:
    """Return whether `value` is the same for all tokens, (batch, 1, width)."""
    dims = walk.dims_of(value) if value is not None else ()
    return len(dims) == 3 and dims[1] == 1


def _any_but_residual(node: ir.Node) -> bool:
    """Return whether `node` belongs between two linear layers of one branch."""
    if node.op_type in ("Add", "Sub"):
        return walk.constant_index(node) >= 0
    return node.op_type not in ("Softmax", "Concat", "ReduceMean")


def _residual_below(value: ir.Value) -> ir.Value | None:
    """Return the sum of `value`'s branch and the residual stream."""
    stack = [value]
    while stack:
        for node in walk.consumers(stack.pop()):
            if node.op_type == "Add" and len(walk.operands(node)) == 2:
                return node.outputs[0]
            if node.op_type != "MatMul":
                stack.extend(node.outputs)
    return None
