"""ONNX graphs of a few nodes, in ONNX's own text form, and what they give."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort


def parse(text: str, **constants: np.ndarray | float) -> ir.Model:
    """Return the graph ``(inputs) => (outputs) { nodes }`` with `constants` as initializers.

    Shapes are inferred, that of an output as well.
    """
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 19]> small {text}')
    for name, array in constants.items():
        number = np.asarray(array)
        number = number.astype(np.float32) if number.dtype.kind == "f" else number
        model.graph.initializer.append(onnx.numpy_helper.from_array(number, name))
    for output in model.graph.output:
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def run(model: ir.Model, batch: int = 2) -> np.ndarray:
    """Return the first output for `batch` images of seeded noise."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (image,) = session.get_inputs()
    shape = [dim if isinstance(dim, int) else batch for dim in image.shape]
    noise = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
    return session.run(None, {image.name: noise})[0]


def ops(model: ir.Model) -> Counter[str]:
    """Return how many nodes of each type there are."""
    return Counter(node.op_type for node in model.graph)
