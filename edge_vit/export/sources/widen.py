"""A graph in float16, or in parts of it, as the same graph in float32."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, TypeProto, numpy_helper

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def widen(model: ModelProto) -> int:
    """Let everything that is float16 or bfloat16 in `model` be float32; return how many weights.

    Every weight keeps its value. What the graph rounded to 16 bits between two operators is not
    rounded any more, so its answers are those that the file's author trained, or closer to them.
    """
    return _widen_graph(model.graph)


def _widen_graph(graph: GraphProto) -> int:
    count = sum(map(_widen_tensor, graph.initializer))
    for value in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(value.type)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in NARROW:
                attribute.i = TensorProto.FLOAT
            for tensor in (attribute.t, *attribute.tensors):
                count += _widen_tensor(tensor)
            for subgraph in (attribute.g, *attribute.graphs):
                count += _widen_graph(subgraph)
    return count


def _widen_tensor(tensor: TensorProto) -> int:
    if tensor.data_type not in NARROW:
        return 0
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return 1


def _widen_type(kind: TypeProto) -> None:
    if kind.tensor_type.elem_type in NARROW:
        kind.tensor_type.elem_type = TensorProto.FLOAT
