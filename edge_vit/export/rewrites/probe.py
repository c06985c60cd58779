"""Runs a graph, or a few nodes of it, to learn what its values are: shapes, constants, places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edge_vit.errors import SpecError
from edge_vit.graph.exact import one_line, open_graph
from edge_vit.graph.expose import expose, keep_needed
from edge_vit.graph.walk import Array, array_of, is_constant, scaled_by
from edge_vit.graph.weightless import Weights, split_weights

PROBE_BATCHES = (2, 3)  # not 1: what an exporter says of one image need not hold for more


class Probe:
    """A model for one batch size, whose values are looked at without a change to it."""

    def __init__(self, proto: onnx.ModelProto, weights: Weights, batch: int) -> None:
        """`proto`, whose inputs besides its own are the `weights`, may leave its batch open."""
        self._proto, self._weights, self._batch = copy.deepcopy(proto), weights, batch
        for value in self._proto.graph.input:
            if value.name not in weights:
                first = value.type.tensor_type.shape.dim[0]
                first.dim_value = first.dim_value or batch
        self._inferred = _infer(self._proto)

    def shapes(self, values: Sequence[ir.Value]) -> dict[ir.Value, tuple[int, ...]]:
        """Return the shapes of `values`: inferred, or seen in a run."""
        if all(value.name in self._inferred for value in values):
            return {value: self._inferred[value.name or ""] for value in values}
        names = {value: f"shape_of/{value.name}" for value in values}
        proto = copy.deepcopy(self._proto)
        for value, name in names.items():
            proto.graph.node.append(onnx.helper.make_node("Shape", [value.name or ""], [name]))
        found = self._run(expose(proto, names.values(), only=True), list(names.values()))
        return {value: tuple(found[name].tolist()) for value, name in names.items()}

    def arrays(self, values: Sequence[ir.Value]) -> dict[str, Array]:
        """Return the arrays of `values`, by name, for one run of images of seeded noise."""
        names = [value.name or "" for value in values]
        proto = expose(self._proto, names, only=True)
        _fix_shapes(proto.graph, self._inferred)
        return self._run(keep_needed(proto), names)

    def _run(self, proto: onnx.ModelProto, names: list[str]) -> dict[str, Array]:
        session = open_graph(proto, as_written=True)
        weights = self._weights
        feeds = {
            value.name: weights[value.name].numpy()
            if value.name in weights
            else _noise(value, self._batch)
            for value in session.get_inputs()
        }
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime raises a class of its own for every status code
            raise SpecError(
                f"the graph does not run at batch size {self._batch}: {one_line(error)}"
            ) from None


def make_probes(model: ir.Model, *batches: int) -> list[Probe]:
    """Return a probe of `model` for each of `batches`."""
    proto, weights = split_weights(model)
    del proto.graph.value_info[:]  # shapes that are noted in it hold for any batch
    return [Probe(proto, weights, batch) for batch in batches]


def runner_of(
    nodes: Sequence[ir.Node],
    source: ir.Value,
    end: ir.Value,
    dtype: npt.DTypeLike = np.float32,
    *,
    scales: bool = True,
) -> Callable[[Array], Array]:
    """Return a function from an array of `dtype` in the place of `source` to `end`.

    `nodes`, in topological order, make `end` of constants and `source` alone; what becomes of them
    later does not matter. Without `scales`, those that only multiply by one number do nothing.
    """
    protos = []
    for node in nodes:
        scaled = None if scales else scaled_by(node)
        proto = ir.to_proto(node)
        if scaled is not None:
            proto = onnx.helper.make_node("Identity", [scaled[0].name or ""], list(proto.output))
        protos.append(proto)
    read = {value for node in nodes for value in node.inputs if is_constant(value)}
    constants = [onnx.numpy_helper.from_array(array_of(v), v.name if v else "") for v in read]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    first = onnx.helper.make_tensor_value_info(source.name or "", kind, None)
    last = onnx.ValueInfoProto(name=end.name)
    graph = onnx.helper.make_graph(protos, "part", [first], [last], constants)
    opset = [onnx.helper.make_opsetid("", 19)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = open_graph(model, as_written=True)
    names, name = [end.name or ""], source.name or ""

    def run(array: Array) -> Array:
        result: Array = session.run(names, {name: array})[0]
        return result

    return run


def _infer(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each value that follows from the graph alone."""
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {}
    for info in (*inferred.input, *inferred.value_info):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                shapes[info.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _fix_shapes(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Let each Shape node be the constant that it will yield: no image has to run for it."""
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            bounds = {attribute.name: attribute.i for attribute in node.attribute}
            shape = shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
            value = onnx.numpy_helper.from_array(np.array(shape, np.int64))
            node.CopyFrom(onnx.helper.make_node("Constant", [], list(node.output), value=value))


def _noise(value: Any, batch: int) -> Array:
    """Return seeded noise for an input of ONNX Runtime's; of integers, but pixels, zeros."""
    shape = [batch if not isinstance(dim, int) else dim for dim in value.shape]
    noise = np.random.default_rng(0).standard_normal(shape)
    if "float" in value.type:
        return noise.astype(np.float32)
    if "uint8" in value.type:
        return (noise * 50 + 128).clip(0, 255).astype("u1")
    return np.zeros(shape, np.int32 if "int32" in value.type else np.int64)
