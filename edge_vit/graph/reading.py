"""Which tokens a model's prediction is read from, and how its patches lie on the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edge_vit.graph.sites import Block, find_attentions
from edge_vit.graph.walk import array_of, consumers, is_constant, reduced_axes

_PER_TOKEN = frozenset(
    {"LayerNormalization", "Add", "Mul", "Sub", "Div", "Cast", "Identity", "MatMul", "Gemm"}
    | {"Erf", "Gelu", "Tanh", "Relu", "Sigmoid"}
)
"""Operators that keep tokens apart, given that their other operand is constant or of one token."""

_TOKEN_AXES = (1, -2)  # of (batch, tokens, width)


@dataclass(frozen=True)
class Reading:
    """Where the prediction comes from."""

    weights: tuple[float, ...]  # of each token, adding up to 1; empty where there is a `pool`
    pool: str  # name of the probabilities of an attention pooling, (batch, heads, queries, tokens)
    words: str  # the same for people: ``class token``


@dataclass(frozen=True)
class Layout:
    """How tokens lie on the picture: rows and columns of patches, behind class token, registers."""

    rows: int
    columns: int
    num_prefix: int


def find_layout(graph: ir.Graph, image_size: tuple[int, int], num_tokens: int) -> Layout | None:
    """Return how `num_tokens` lie on an image, by the stride of the patch embedding.

    None where no convolution cuts the image into so many patches, as in hierarchical models.
    """
    for node in graph:
        if node.op_type == "Conv" and "strides" in node.attributes:
            down, across = node.attributes["strides"].as_ints()
            rows, columns = image_size[0] // down, image_size[1] // across
            num_prefix = num_tokens - rows * columns
            return Layout(rows, columns, num_prefix) if 0 <= num_prefix < rows * columns else None
    return None


def find_reading(
    graph: ir.Graph, blocks: tuple[Block, ...], num_tokens: int, num_prefix: int
) -> Reading | None:
    """Return which tokens the output of `graph` is read from, or None where that is not seen.

    Of the `num_tokens` that attend to each other, `num_prefix` lie before the patches.
    """
    own = {block.attention.softmax for block in blocks}
    attentions = find_attentions(graph, has_constants=True)
    pools = [found.softmax for found in attentions if found.softmax not in own]
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
    """Yield the tokens that each reader of `value` (batch, tokens, width) picks or averages."""
    for node in consumers(value):
        output = node.outputs[0]
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) in _TOKEN_AXES:
            if is_constant(node.inputs[1]):
                yield tuple(tokens[int(i)] for i in array_of(node.inputs[1]).reshape(-1))
        elif node.op_type == "Slice":
            kept = _slice_tokens(node, tokens)
            if kept is not None and len(kept) == 1 and not output.is_graph_output():
                yield tuple(kept)
            elif kept is not None:
                yield from _readings(output, kept)
        elif node.op_type == "ReduceMean" and reduced_axes(node, is_kept=False) in ([1], [-2]):
            yield tuple(tokens)
        elif node.op_type in _PER_TOKEN:
            yield from _readings(output, tokens)


def _slice_tokens(node: ir.Node, tokens: range) -> range | None:
    """Return what a Slice along the tokens keeps; `tokens` where it cuts another axis."""
    bounds = node.inputs[1:4]
    if len(bounds) < 3 or not all(map(is_constant, bounds)):
        return None
    kept = tokens
    for start, end, axis in zip(*(array_of(v).reshape(-1) for v in bounds), strict=True):
        if int(axis) in _TOKEN_AXES:
            kept = kept[int(start) : min(int(end), len(kept))]
    return kept if len(kept) else None


def _words(weights: list[float], num_prefix: int) -> str:
    read = [token for token, weight in enumerate(weights) if weight]
    if read == [0] and num_prefix:
        return "class token"
    if len(read) <= num_prefix and max(read) < num_prefix:
        return f"{len(read)} prefix tokens"
    if min(read) >= num_prefix:
        return "mean of the patches" if len(read) > 1 else f"patch {read[0] - num_prefix}"
    return f"mean of all {len(read)} tokens" if len(read) == len(weights) else f"{len(read)} tokens"
