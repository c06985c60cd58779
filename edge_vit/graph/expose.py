"""Makes inner tensors of a graph outputs, so that a run shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx


def expose(model: onnx.ModelProto, names: Iterable[str], *, only: bool = False) -> onnx.ModelProto:
    """Return `model` with the values `names` as outputs, in their order, behind its own.

    The result shares nothing with `model`.

    Args:
        model: any ONNX model.
        names: of values in the graph.
        only: leave the model's own outputs out.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
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
    kept = needed_nodes(model.graph.node, (output.name for output in model.graph.output))
    read = {name for node in kept for name in node.input}
    outputs = {output.name for output in model.graph.output}
    pruned = onnx.ModelProto(ir_version=model.ir_version)
    pruned.opset_import.extend(model.opset_import)
    pruned.graph.name = model.graph.name
    pruned.graph.input.extend(model.graph.input)
    pruned.graph.output.extend(model.graph.output)
    pruned.graph.node.extend(kept)
    constants = (c for c in model.graph.initializer if c.name in read or c.name in outputs)
    pruned.graph.initializer.extend(constants)
    return pruned


def needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """Return those of `nodes`, in topological order, that the values `outputs` are made from."""
    wanted, kept = set(outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
