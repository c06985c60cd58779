"""Which tokens a model reads its answer from, and how its patches lie on the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edge_vit.graph.sites import Block, find_attentions
from edge_vit.graph.walk import array_of, consumers, is_constant

_PER_TOKEN = frozenset(
    {"LayerNormalization", "Add", "Mul", "Sub", "Div", "Cast", "Identity", "MatMul", "Gemm"}
    | {"Erf", "Gelu", "Tanh", "Relu", "Sigmoid"}
)
"""Operators that keep tokens apart, given that their other operand is constant or of one token."""


@dataclass(frozen=True)
class Reading:
    """Where the answer comes from.

    Attributes:
        weights: of each token in the answer, (tokens,), adding up to 1; empty where `pool` says it.
        pool: name of the probabilities of an attention pooling, (batch, heads, queries, tokens);
            empty where there is none.
        words: the same for people: ``class token``.
    """

    weights: tuple[float, ...]
    pool: str
    words: str


@dataclass(frozen=True)
class Layout:
    """How tokens lie on the picture.

    Attributes:
        rows: of patches.
        columns: of patches.
        num_prefix: tokens before the patches: the class token, registers.
    """

    rows: int
    columns: int
    num_prefix: int


def find_layout(graph: ir.Graph, image_size: tuple[int, int], num_tokens: int) -> Layout | None:
    """Return how `num_tokens` lie on an image, by the stride of the patch embedding.

    None where no convolution cuts the image into so many patches, as in hierarchical models.

    Args:
        graph: a model's.
        image_size: (height, width) in pixels.
        num_tokens: that attend to each other.
    """
    for node in graph:
        strides = node.attributes.get("strides")
        if node.op_type != "Conv" or strides is None:
            continue
        down, across = strides.as_ints()
        rows, columns = image_size[0] // down, image_size[1] // across
        num_prefix = num_tokens - rows * columns
        return Layout(rows, columns, num_prefix) if 0 <= num_prefix < rows * columns else None
    return None


def find_reading(
    graph: ir.Graph, blocks: tuple[Block, ...], num_tokens: int, num_prefix: int
) -> Reading | None:
    """Return which tokens the output of `graph` is read from, or None where that is not seen.

    Args:
        graph: a model's, in canonical form.
        blocks: all of it.
        num_tokens: that attend to each other.
        num_prefix: of them, those before the patches.
    """
    own = {block.attention.softmax for block in blocks}
    pools = [found.softmax for found in find_attentions(graph) if found.softmax not in own]
    if pools:
        return Reading((), pools[-1].outputs[0].name or "", "attention pooling")
    last = blocks[-1].linears("fc2")[-1].output
    sums = [node for node in consumers(last) if node.op_type == "Add"]
    found = list(_readings(sums[0].outputs[0] if sums else last, range(num_tokens)))
    if not found:
        return None
    weights = [0.0] * num_tokens
    for tokens in found:
        for token in tokens:
            weights[token] += 1 / (len(found) * len(tokens))
    return Reading(tuple(weights), "", _words(weights, num_prefix))


def _readings(value: ir.Value, tokens: range) -> Iterator[tuple[int, ...]]:
    """The tokens that each reader of `value` (batch, tokens, width) picks or averages."""
    for node in consumers(value):
        if node.op_type == "Gather" and _int(node, "axis", 0) in (1, -2):
            index = node.inputs[1]
            if index is not None and is_constant(index):
                yield tuple(tokens[int(i)] for i in array_of(index).reshape(-1))
        elif node.op_type == "Slice":
            kept = _slice_tokens(node, tokens)
            if kept is not None and len(kept) == 1 and node.outputs[0].is_graph_output() is False:
                yield tuple(kept)
            elif kept is not None:
                yield from _readings(node.outputs[0], kept)
        elif node.op_type == "ReduceMean" and _reduces_tokens(node):
            yield tuple(tokens)
        elif node.op_type in _PER_TOKEN:
            yield from _readings(node.outputs[0], tokens)


def _slice_tokens(node: ir.Node, tokens: range) -> range | None:
    """What a Slice along the tokens keeps; `tokens` where it cuts another axis."""
    values = [
        None if v is None else (array_of(v).reshape(-1) if is_constant(v) else None)
        for v in node.inputs[1:5]
    ]
    starts, ends, axes = (*values, None, None, None)[:3]
    if starts is None or ends is None or axes is None:
        return None
    kept = tokens
    for start, end, axis in zip(starts, ends, axes, strict=True):
        if int(axis) in (1, -2):
            kept = kept[int(start) : min(int(end), len(kept))]
    return kept if len(kept) else None


def _reduces_tokens(node: ir.Node) -> bool:
    axes = node.attributes.get("axes")
    if axes is not None:
        return list(axes.as_ints()) in ([1], [-2])
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or not is_constant(value):
        return False
    return array_of(value).reshape(-1).tolist() in ([1], [-2])


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def _words(weights: list[float], num_prefix: int) -> str:
    read = [token for token, weight in enumerate(weights) if weight]
    if read == [0] and num_prefix:
        return "class token"
    if len(read) <= num_prefix and max(read) < num_prefix:
        return f"{len(read)} prefix tokens"
    if min(read) >= num_prefix:
        return "mean of the patches" if len(read) > 1 else f"patch {read[0] - num_prefix}"
    return f"mean of all {len(read)} tokens" if len(read) == len(weights) else f"{len(read)} tokens"
