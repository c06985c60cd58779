"""ONNX files of a linear classifier, with any end behind its logits."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_file(path, *end_nodes, classes=3, opset=17):
    """Write a linear classifier of 8x8 pixels whose logits `l` go through `end_nodes` to `y`."""
    weight = np.random.default_rng(2).standard_normal((192, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["u"]),
        helper.make_node("MatMul", ["u", "W"], ["l"]),
        *end_nodes,
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(weight, "W")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path
    )
    return path
