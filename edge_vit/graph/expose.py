"""Graphs that show more than their outputs: inner values, their extremes, a part of the whole.

All of it is done to serialized graphs, and the results share nothing with what they are made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_vit.graph.weightless import without_weights

_KINDS = ("Max", "Min", "Sum")
"""The sum is NaN where an element is: ONNX Runtime's largest and smallest pass over NaN."""

_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def expose(model: onnx.ModelProto, names: Iterable[str], *, only: bool = False) -> onnx.ModelProto:
    """Return `model` with the values `names` as outputs behind its own, or `only` with these."""
    exposed = deepcopy(model)
    outputs = [] if only else list(exposed.graph.output)
    present = {output.name for output in outputs}
    outputs += [
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in present
    ]
    del exposed.graph.output[:]
    exposed.graph.output.extend(outputs)
    return exposed


def keep_needed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the nodes and constants alone that its outputs are made from."""
    outputs = {output.name for output in model.graph.output}
    kept = _needed_nodes(model.graph.node, outputs)
    read = {name for node in kept for name in _names_read(node)} | outputs
    pruned = onnx.ModelProto(ir_version=model.ir_version)
    pruned.opset_import.extend(model.opset_import)
    pruned.graph.name = model.graph.name
    pruned.graph.input.extend(model.graph.input)
    pruned.graph.output.extend(model.graph.output)
    pruned.graph.node.extend(kept)
    pruned.graph.initializer.extend(c for c in model.graph.initializer if c.name in read)
    return pruned


@dataclass(frozen=True)
class Cut:
    """The part of a graph below some values, which is run without what lies above it.

    The inputs of `model` are the `feeds`, of the type that they have in the whole graph, and a
    float32 error for each value that takes one, by the value's name; a zero of shape (1,) is none.
    """

    model: onnx.ModelProto
    feeds: tuple[str, ...]
    errors: Mapping[str, str]


def cut_below(
    model: onnx.ModelProto,
    roots: Iterable[str],
    disturbed: Iterable[str],
    outputs: Iterable[str],
    *,
    only_needed: bool = False,
) -> Cut:
    """Return the part of `model` that depends on the values `roots`, which are fed from now on.

    An error is added to each value of `disturbed`. Of `outputs`, those below the roots are given;
    `only_needed` leaves out what none of them is made from.
    """
    outputs = list(outputs)
    reached, names, nodes = set(roots), set(roots), []
    for node in model.graph.node:
        if reached.intersection(node.input) and not names.intersection(node.output):
            reached.update(node.output)
            nodes.append(node)
    if only_needed:
        nodes = _needed_nodes(nodes, outputs)
    made = {name for node in nodes for name in node.output}
    constants = {constant.name: constant for constant in model.graph.initializer}
    read = dict.fromkeys(name for node in nodes for name in node.input if name)
    feeds = tuple(name for name in read if name not in made and name not in constants)
    errors = {name: f"{name}/error" for name in disturbed}

    graph = onnx.GraphProto(name="cut")
    for node in nodes:
        copy = graph.node.add()
        copy.CopyFrom(node)
        for index, name in enumerate(node.output):
            if name in errors:
                exact = copy.output[index] = f"{name}/exact"
                graph.node.add(op_type="Add", input=[exact, errors[name]], output=[name])
    graph.initializer.extend(constants[name] for name in read if name in constants)
    types = _value_types(model)
    for name in (*feeds, *errors.values()):
        kind = types.get(name, _FLOAT)
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name in made)
    cut = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    cut.opset_import.extend(model.opset_import)
    return Cut(cut, feeds, errors)


def float_values(model: onnx.ModelProto) -> list[str]:
    """Return the names of all float32 values that nodes of `model` make, in their order."""
    types = _value_types(model)
    made = (name for node in model.graph.node for name in node.output)
    return [name for name in made if types.get(name) == _FLOAT]


def add_extremes(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return `model` with a few numbers of the values `names` as outputs behind its own.

    `read_amax` makes sense of them. Each is computed right behind the node that makes the value:
    behind all of them, ONNX Runtime would keep the values until then.
    """
    extended, wanted = deepcopy(model), list(names)
    graph, asked = extended.graph, set(wanted)
    del graph.node[:]
    for node in model.graph.node:
        graph.node.append(node)
        for name in asked.intersection(node.output):
            for kind in _KINDS:
                output = f"{name}/{kind}"
                graph.node.append(
                    onnx.helper.make_node(f"Reduce{kind}", [name], [output], output, keepdims=0)
                )
    graph.output.extend(
        onnx.helper.make_tensor_value_info(f"{name}/{kind}", _FLOAT, [])
        for name in wanted
        for kind in _KINDS
    )
    return extended


def read_amax(names: Iterable[str], outputs: Iterable[npt.NDArray[Any]]) -> dict[str, float]:
    """Return the largest absolute element of each value, infinite where one is NaN.

    `outputs` are what `add_extremes` has put behind the model's own for these names.
    """
    numbers = np.array([float(x) for x in outputs]).reshape(-1, len(_KINDS))
    amax = np.abs(numbers[:, :2]).max(axis=1)
    amax[np.isnan(numbers).any(axis=1)] = np.inf
    return dict(zip(names, amax.tolist(), strict=True))


def round_as_half(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a float32 graph that rounds to float16 wherever `model` is float16, as a GPU does.

    Every node computes in float32, as tensor cores accumulate, and its output is rounded. With the
    graph comes, by the name of each value that is rounded, the name of the node that makes it.
    """
    types = _value_types(model)
    emulated = deepcopy(model)
    graph = emulated.graph
    del graph.node[:]
    del graph.value_info[:]
    widened = {}  # constants stay as small as they are
    for tensor in graph.initializer:
        if tensor.data_type == _HALF:
            widened[tensor.name] = f"{tensor.name}/widened"
            graph.node.append(_cast(tensor.name, widened[tensor.name], _FLOAT))
    rounded: dict[str, str] = {}
    for node in model.graph.node:
        copy = graph.node.add()
        copy.CopyFrom(node)
        copy.input[:] = [widened.get(name, name) for name in node.input]
        for attribute in copy.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                attribute.i = _FLOAT
        for index, name in enumerate(node.output):
            if types.get(name) == _HALF:
                copy.output[index] = f"{name}/exact"
                graph.node.append(_cast(f"{name}/exact", f"{name}/rounded", _HALF))
                graph.node.append(_cast(f"{name}/rounded", name, _FLOAT))
                rounded[name] = node.name
    return emulated, rounded


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], to=kind)


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each value."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return those of `nodes`, in topological order, that the values `outputs` are made from."""
    wanted, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(_names_read(node))
            kept.append(node)
    return kept[::-1]


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that `node` reads, those that its subgraphs capture too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _names_read(inner)
