"""How large the values inside a graph become, without keeping any of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from edge_vit.graph.walk import Array

_KINDS = ("Max", "Min")


def add_extremes(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return `model` with the largest and the smallest element of each value as outputs.

    The runtime frees each value after its last reader, as before: only two numbers of it are left.
    They stand behind the model's own outputs, for each name the largest first.
    """
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    for name in names:
        for kind in _KINDS:
            output = f"{name}/{kind.lower()}"
            extended.graph.node.add(
                op_type=f"Reduce{kind}", name=output, input=[name], output=[output]
            )
            extended.graph.node[-1].attribute.append(onnx.helper.make_attribute("keepdims", 0))
            extended.graph.output.append(
                onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [])
            )
    return extended


def read_amax(names: Iterable[str], outputs: Iterable[Array]) -> dict[str, float]:
    """Return the largest absolute element of each value; infinite where one is NaN.

    Args:
        names: as `add_extremes` was given them.
        outputs: of its outputs, those behind the model's own.
    """
    numbers = np.array([float(x) for x in outputs]).reshape(-1, len(_KINDS))
    amax = np.abs(numbers).max(axis=1)
    return dict(zip(names, np.where(np.isnan(amax), np.inf, amax).tolist(), strict=True))


def float_values(model: onnx.ModelProto) -> list[str]:
    """Return the names of all float32 values that nodes of `model` make, in their order."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    made = (name for node in model.graph.node for name in node.output)
    return [name for name in made if types.get(name) == onnx.TensorProto.FLOAT]
