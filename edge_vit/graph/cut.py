"""Cuts the lower part out of a graph: from some inner values to its outputs, with errors let in.

What a change at one layer does to the logits needs no run of the layers above it: the values that
flow into the cut are kept from one exact run, and the change is added where it happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from edge_vit.graph.expose import needed_nodes

ERROR_SUFFIX = "/error"
"""The input that is added to a value is called after it."""


@dataclass(frozen=True)
class Cut:
    """The part of a graph below some values.

    Attributes:
        model: its inputs are `feeds` and an error for each value that was asked for; errors are
            float32 and broadcast, so that a zero of shape (1,) stands for none.
        feeds: values of the whole graph that flow in, of the type that they have there.
        errors: input that is added to a value, by the value's name.
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
    """Return the part of `model` that depends on `roots`.

    Args:
        model: a whole graph, whose shapes and types can be inferred.
        roots: values that are fed from now on.
        disturbed: values below them that an error is to be added to.
        outputs: values that a run returns; those that are not below the roots are left out.
        only_needed: leave out what no such value is made from.
    """
    outputs = list(outputs)
    reached, names, nodes = set(roots), set(roots), []
    for node in model.graph.node:
        if reached.intersection(node.input) and not names.intersection(node.output):
            reached.update(node.output)
            nodes.append(node)
    if only_needed:
        nodes = needed_nodes(nodes, outputs)
    made = {name for node in nodes for name in node.output}
    constants = {constant.name: constant for constant in model.graph.initializer}
    read = dict.fromkeys(name for node in nodes for name in node.input if name)
    feeds = tuple(name for name in read if name not in made and name not in constants)
    errors = {name: f"{name}{ERROR_SUFFIX}" for name in disturbed}

    graph = onnx.GraphProto(name="cut")
    for node in nodes:
        copy = graph.node.add()
        copy.CopyFrom(node)
        for index, name in enumerate(node.output):
            if name in errors:
                copy.output[index] = f"{name}/exact"
                graph.node.add(
                    op_type="Add", input=[copy.output[index], errors[name]], output=[name]
                )
    graph.initializer.extend(constants[name] for name in read if name in constants)
    types = _types_of(model)
    for name in (*feeds, *errors.values()):
        kind = types.get(name, onnx.TensorProto.FLOAT)
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name in made)
    cut = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    cut.opset_import.extend(model.opset_import)
    return Cut(cut, feeds, errors)


def _types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each value: where windows are gathered, indices flow in too."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}
