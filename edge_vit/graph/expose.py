"""Makes inner tensors of a graph outputs, so that a run shows them."""

from __future__ import annotations

from collections.abc import Iterable

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
