"""Graphs whose weights are inputs: all that shape inference needs, and small enough to copy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from edge_vit.graph.walk import array_shape

Weights = Mapping[str, ir.TensorProtocol]

_MIN_ELEMENTS = 256  # smaller constants, shapes among them, decide what shapes follow


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model`; large float32 weights, in files too, are inputs behind its own."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, functions=model.functions)
    light.opset_import.extend(model.opset_import)
    light.graph.name = graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(graph, part))
    given = {value.name for value in graph.input}
    for tensor in graph.initializer:
        is_outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        if not is_outside and not _is_weight(tensor.data_type, math.prod(tensor.dims)):
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


def give_weights(light: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `light`, what `without_weights` made of `model`, with those weights again."""
    inputs = [
        value for value in light.graph.input if value.name in {v.name for v in model.graph.input}
    ]
    held = {tensor.name for tensor in light.graph.initializer}
    del light.graph.input[:]
    light.graph.input.extend(inputs)
    light.graph.initializer.extend(t for t in model.graph.initializer if t.name not in held)
    return light


def split_weights(model: ir.Model) -> tuple[onnx.ModelProto, Weights]:
    """Return `model` as `without_weights` leaves it, and those weights by name."""
    weights = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and _is_weight(value.const_value.dtype, value.const_value.size)
    }
    try:
        for value, tensor in weights.items():  # so that no number is copied
            value.const_value = ir.ExternalTensor(
                "",
                None,
                None,
                tensor.dtype,
                shape=ir.Shape(array_shape(value)),
                name=value.name or "",
            )
        proto = ir.to_proto(model)
    finally:
        for value, tensor in weights.items():
            value.const_value = tensor
    return without_weights(proto), {value.name or "": tensor for value, tensor in weights.items()}


def _is_weight(kind: int, size: int) -> bool:
    return kind == onnx.TensorProto.FLOAT and size >= _MIN_ELEMENTS
