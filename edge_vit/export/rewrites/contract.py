"""Gives a graph the input and the output that every edge-vit graph has."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import Builder, replace_value
from edge_vit.spec import PreprocessSpec, TensorSpec


def add_preprocessing(graph: ir.Graph, spec: PreprocessSpec, tensor: TensorSpec) -> None:
    """Put ``(images - 255 mean) / (255 std)`` and NHWC to NCHW in front of `graph`.

    The old input, float32 (batch, 3, height, width), becomes an inner value; the new one is
    `tensor`: uint8 (batch, height, width, 3) RGB.
    """
    old = graph.inputs[0]
    images = ir.Value(
        name=tensor.name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(tensor.shape)
    )
    build = Builder(graph, graph[0])
    mean = np.asarray(spec.mean, np.float64) * 255
    std = np.asarray(spec.std, np.float64) * 255
    pixels = build.one("Cast", images, to=int(ir.DataType.FLOAT))
    centred = build.one("Sub", pixels, build.constant(mean.astype(np.float32)))
    scaled = build.one("Mul", centred, build.constant((1 / std).astype(np.float32)))
    normalised = build.one("Transpose", scaled, perm=(0, 3, 1, 2))
    graph.inputs[0] = images
    replace_value(old, normalised)


def set_output(graph: ir.Graph, tensor: TensorSpec) -> None:
    """Keep the first output alone and call it what `tensor` does."""
    value = graph.outputs[0]
    del graph.outputs[1:]
    if value.is_graph_input() or len(value.uses()) > 0:  # an output that is also read, or no node's
        value = Builder(graph, graph[-1]).one("Identity", value)
        graph.outputs[0] = value
    value.name = tensor.name
    value.type = ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape(tensor.shape)
