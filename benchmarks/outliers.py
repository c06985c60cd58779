"""Weights as large pretrained models have them: huge channels that leave the function as it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir

from edge_vit.graph.edit import add_constant
from edge_vit.graph.sites import find_blocks
from edge_vit.lowering.smoothing import find_smoothing_targets, smooth

STRENGTHS = (10, 30, 100)
NUM_CHANNELS = 2
VARIANTS = ("as trained", *(f"channels x{strength}" for strength in STRENGTHS), "huge MLP pair")
"""Names of what `variants` yields."""


def scale_channels(model: onnx.ModelProto, strength: float, seed: int = 0) -> onnx.ModelProto:
    """Return `model` with two channels of every LayerNorm, and two of the values, scaled up.

    The rows of the linear layer behind them are divided by the same.
    """
    copy, random = ir.from_proto(model), np.random.default_rng(seed)
    for block in find_blocks(copy.graph):
        for target in find_smoothing_targets(block):
            divisors = np.ones(target.width, np.float32)
            divisors[random.choice(len(divisors), NUM_CHANNELS, replace=False)] = 1 / strength
            smooth(copy.graph, target, divisors)
    return ir.to_proto(copy)


def add_huge_pair(model: onnx.ModelProto, size: float = 60.0, seed: int = 0) -> onnx.ModelProto:
    """Return `model` with two more hidden units in every second MLP, whose effects cancel.

    Both see the tokens alike and reach `size`; the second layer's weights of one are the negative
    of the other's.
    """
    copy, random = ir.from_proto(model), np.random.default_rng(seed)
    graph = copy.graph
    for block in find_blocks(graph)[::2]:
        (fc1,), (fc2,) = block.linears("fc1"), block.linears("fc2")
        width, outputs = fc1.weight.shape[0], fc2.weight.shape[1]
        column = random.normal(0, 0.02, (width, 1)).astype(np.float32)
        row = random.normal(0, np.abs(fc2.weight).mean(), (1, outputs)).astype(np.float32)
        wide1 = np.concatenate([fc1.weight, column, column], axis=1)
        wide2 = np.concatenate([fc2.weight, row, -row], axis=0)
        bias = np.concatenate([fc1.bias, np.full(2, size, np.float32)]).reshape(1, 1, -1)
        name = f"block{block.index}/huge"
        assert fc1.add is not None
        index = next(i for i, v in enumerate(fc1.add.inputs) if v is not None and v.const_value)
        fc1.add.replace_input_with(index, add_constant(graph, f"{name}/bias", bias))
        fc1.matmul.replace_input_with(1, add_constant(graph, f"{name}/fc1", wide1))
        fc2.matmul.replace_input_with(1, add_constant(graph, f"{name}/fc2", wide2))
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # the hidden width is another one now
    # As any graph in canonical form has them: without shapes a residual stream is not found.
    return onnx.shape_inference.infer_shapes(ir.to_proto(copy), data_prop=True)


def variants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the model as trained, then each variant, with a name for tables."""
    yield "as trained", model
    for strength in STRENGTHS:
        yield f"channels x{strength}", scale_channels(model, strength)
    yield "huge MLP pair", add_huge_pair(model)
