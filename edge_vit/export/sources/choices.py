"""Outputs that are chosen among the scores of all classes, and so are no scores of classes."""

from __future__ import annotations

from onnx import GraphProto

from edge_vit.errors import SpecError

_CHOOSES = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression"})
_MOVES = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_PASSED = frozenset((*_MOVES, "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid"))


def choosing_node(graph: GraphProto, output: str) -> str | None:
    """Return the operator that picked or sorted `output`, such as ``TopK``; None without one.

    Only casts, reshapes, scales and activations may lie behind it: deep inside a model, choosing is
    part of what it computes.
    """
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _PASSED:
        node = makers.get(node.input[0])
    return node.op_type if node is not None and node.op_type in _CHOOSES else None


def refuse_choice(graph: GraphProto, address: str, output: str) -> None:
    """Check that `output` of `graph` is not one of `choosing_node`.

    Raises:
        SpecError: it is.
    """
    operator = choosing_node(graph, output)
    if operator is not None:
        raise SpecError(
            f"{address}: output {output!r} comes from {operator}, so its columns are no classes, "
            "expected the scores of all classes. Leave that out of the model"
        )
