"""How large the values inside a graph become, without keeping any of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from edge_vit.graph.walk import Array

_KINDS = ("Max", "Min", "Sum")
"""The sum is NaN where an element is: ONNX Runtime's largest and smallest pass over NaN."""


def add_extremes(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return `model` with the largest and the smallest element of values of its nodes as outputs.

    The runtime frees each value after its last reader, as before: a few numbers of it are left.
    They stand behind the model's own outputs, for each name the largest first. Each is asked for
    right behind the node that makes the value: behind all of them, ONNX Runtime would keep the
    values until then, whatever order it is told to take.
    """
    extended, wanted = onnx.ModelProto(), list(names)
    extended.CopyFrom(model)
    graph, asked = extended.graph, set(wanted)
    del graph.node[:]
    for node in model.graph.node:
        graph.node.append(node)
        for name in node.output:
            if name in asked:
                for kind in _KINDS:
                    output = _output_of(name, kind)
                    reduce = graph.node.add(
                        op_type=f"Reduce{kind}", name=output, input=[name], output=[output]
                    )
                    reduce.attribute.append(onnx.helper.make_attribute("keepdims", 0))
    for name in wanted:
        for kind in _KINDS:
            graph.output.append(
                onnx.helper.make_tensor_value_info(
                    _output_of(name, kind), onnx.TensorProto.FLOAT, []
                )
            )
    return extended


def _output_of(name: str, kind: str) -> str:
    return f"{name}/{kind.lower()}"


def read_amax(names: Iterable[str], outputs: Iterable[Array]) -> dict[str, float]:
    """Return the largest absolute element of each value; infinite where one is NaN.

    Args:
        names: as `add_extremes` was given them.
        outputs: of its outputs, those behind the model's own.
    """
    numbers = np.array([float(x) for x in outputs]).reshape(-1, len(_KINDS))
    amax = np.abs(numbers[:, :2]).max(axis=1)
    has_nan = np.isnan(numbers).any(axis=1)
    return dict(zip(names, np.where(has_nan, np.inf, amax).tolist(), strict=True))


def float_values(model: onnx.ModelProto) -> list[str]:
    """Return the names of all float32 values that nodes of `model` make, in their order."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    made = (name for node in model.graph.node for name in node.output)
    return [name for name in made if types.get(name) == onnx.TensorProto.FLOAT]
