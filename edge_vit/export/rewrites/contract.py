"""Gives a graph the input that every edge-vit graph has, and the outputs of its task."""

from __future__ import annotations

from collections.abc import Sequence

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


def set_outputs(graph: ir.Graph, tensors: Sequence[TensorSpec]) -> None:
    """Keep the first outputs, as many as `tensors`, and call them what those do."""
    del graph.outputs[len(tensors) :]
    for index, tensor in enumerate(tensors):
        value = graph.outputs[index]
        if (
            value.is_graph_input()  # no node's output, one that is also read, or one named twice
            or len(value.uses()) > 0
            or any(value is other for other in list(graph.outputs)[:index])
        ):
            value = Builder(graph, graph[-1]).one("Identity", value)
            graph.outputs[index] = value
        value.name = tensor.name
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(tensor.shape)
