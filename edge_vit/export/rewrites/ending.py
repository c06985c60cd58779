"""Finds what a graph does to its logits at the very end: softmax, sigmoid, or the log of either.

Such an end is taken off, so that the graph gives logits: INT8 and its error are judged on those,
and the activation is applied once, outside. The end is known by what it computes over the axis of
the classes; a Softmax over any other axis is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.edit import replace_value
from edge_vit.graph.walk import (
    data_input,
    is_constant,
    reduced_axes,
    scalar_of,
    scaled_by,
)
from edge_vit.spec import Activation
from edge_vit.tasks.numerics import FloatArray, activate, log_sigmoid, log_softmax

_PASSED = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"})


MARGIN = 1e-3
"""Largest distance from 0 and 1 of the bounds that a model clips its probabilities to."""


@dataclass(frozen=True)
class Ending:
    """The last operation on logits.

    Attributes:
        activation: softmax or sigmoid.
        is_log: whether the logarithm of the probabilities comes out.
        node: the node that yields the probabilities or their logarithm.
        logits: what goes in.
        reader: the node that reads `node`; None where its output is the graph's.
        scale: positive number that the probabilities, or their logarithm, are multiplied by.
        bounds: what they are clipped to before; within `MARGIN` of 0 and 1.
        changes: the nodes that multiply and clip.
    """

    activation: Activation
    is_log: bool
    node: ir.Node
    logits: ir.Value
    reader: ir.Node | None
    scale: float = 1.0
    bounds: tuple[float, float] = (-math.inf, math.inf)
    changes: tuple[ir.Node, ...] = ()

    @property
    def name(self) -> str:
        """The end in words, such as ``LogSoftmax``."""
        name = ("Log" if self.is_log else "") + self.activation.capitalize()
        return name if self.scale == 1 else f"{self.scale:g} times {name}"

    def restore(self, logits: FloatArray) -> FloatArray:
        """Return what the graph gave before its end was taken off, of logits (..., classes)."""
        if self.is_log:
            values = (log_softmax if self.activation == "softmax" else log_sigmoid)(logits)
        else:
            values = np.clip(activate(self.activation, logits), *self.bounds)
        return (self.scale * values).astype(np.float32)


@dataclass(frozen=True)
class _Found:
    activation: Activation
    is_log: bool
    logits: ir.Value


def find_ending(graph: ir.Graph) -> Ending | None:
    """Return the end of the first output of `graph`, (batch, classes), or None where it has none.

    Shapes are expected to be inferred. What only casts, reshapes, squeezes, multiplies by one
    number or clips next to 0 and 1 is looked through.
    """
    value, reader = graph.outputs[0], None
    scale, bounds, changes = 1.0, (-math.inf, math.inf), list[ir.Node]()
    classes = _dimensions(value)[-1:]
    if not classes or not isinstance(classes[0], int):
        return None
    while (node := value.producer()) is not None:
        axis = _class_axis(value, classes[0])
        if axis is None or value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            return None  # rounded so, it is not what float32 gives outside
        found = _match(node, axis, classes[0])
        if found is not None:
            has_bounds = bounds[0] > -math.inf
            if has_bounds and found.is_log:
                return None
            end = (found.activation, found.is_log, node, found.logits, reader)
            return Ending(*end, scale, bounds, tuple(changes))
        if (factor := _factor(node)) is not None and not math.isfinite(bounds[0]):
            scale *= factor
            changes.append(node)
        elif (clipped := _clip_bounds(node)) is not None and not math.isfinite(bounds[0]):
            bounds = clipped
            changes.append(node)
        elif node.op_type not in _PASSED or is_constant(data_input(node)):
            return None
        value, reader = _changed(node), node
    return None


def strip_ending(graph: ir.Graph, ending: Ending) -> None:
    """Make the logits the output of `graph`; unused nodes are left to a later pass."""
    if ending.changes:
        for node in ending.changes:
            replace_value(node.outputs[0], _changed(node))
        rest = find_ending(graph)
        assert rest is not None, "the end without what changes it"
        ending = rest
    if ending.reader is None:
        del graph.outputs[1:]
        graph.outputs[0] = ending.logits
    else:
        ending.reader.replace_input_with(0, ending.logits)


def _factor(node: ir.Node) -> float | None:
    """Return the positive number that `node` multiplies by, elementwise."""
    scaled = scaled_by(node)
    if scaled is None or scaled[1] <= 0:
        return None
    same = _dimensions(node.outputs[0])[1:] == _dimensions(scaled[0])[1:]
    return scaled[1] if same else None


def _clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return what `node` clips to, where that moves no probability by more than `MARGIN`."""
    if node.op_type != "Clip" or len(node.inputs) != 3:
        return None
    low, high = (scalar_of(value) for value in node.inputs[1:])
    if low is None or high is None or not (-MARGIN <= low <= MARGIN <= 1 - MARGIN <= high):
        return None
    return low, high


def _changed(node: ir.Node) -> ir.Value:
    """Return what a node that is looked through changes."""
    scaled = scaled_by(node)
    return scaled[0] if scaled is not None else data_input(node)


def _match(node: ir.Node, axis: int, classes: int) -> _Found | None:
    for matcher in _MATCHERS.get(node.op_type, ()):
        found = matcher(node, axis)
        # The softmax of a single class is 1 whatever comes: nothing is known of its logits.
        if found is not None and not (classes == 1 and found.activation == "softmax"):
            return found
    return None


def _softmax(node: ir.Node, axis: int) -> _Found | None:
    given = node.attributes.get_int("axis", -1)
    if given % _rank(node) != axis:
        return None
    return _Found("softmax", node.op_type == "LogSoftmax", data_input(node))


def _sigmoid(node: ir.Node, axis: int) -> _Found | None:
    return _Found("sigmoid", False, data_input(node))


def _log(node: ir.Node, axis: int) -> _Found | None:
    """Match ``log(softmax(x))`` and ``log(sigmoid(x))``."""
    inner = _found_above(data_input(node), axis)
    return _Found(inner.activation, True, inner.logits) if inner and not inner.is_log else None


def _exp(node: ir.Node, axis: int) -> _Found | None:
    """Match ``exp(log_softmax(x))``."""
    inner = _found_above(data_input(node), axis)
    return _Found(inner.activation, False, inner.logits) if inner and inner.is_log else None


def _quotient(node: ir.Node, axis: int) -> _Found | None:
    """Match ``exp(x) / sum(exp(x))``, ``1 / (1 + exp(-x))`` and ``exp(x) / (1 + exp(x))``."""
    above, below = node.inputs
    if above is None or below is None:
        return None
    if scalar_of(above) == 1.0:
        return _from_denominator(below)
    exponential, total = above.producer(), below.producer()
    if exponential is None or exponential.op_type != "Exp" or total is None:
        return None
    x = data_input(exponential)
    if total.op_type == "ReduceSum" and _reduces(total, above, axis):
        return _Found("softmax", False, _unshifted(x, axis))
    return _Found("sigmoid", False, x) if _plus_one(total) is above else None


def _reciprocal(node: ir.Node, axis: int) -> _Found | None:
    return _from_denominator(data_input(node))


def _from_denominator(below: ir.Value) -> _Found | None:
    """Match the ``1 + exp(-x)`` that 1 is divided by."""
    total = below.producer()
    exponential = _producer(_plus_one(total) if total is not None else None, "Exp")
    negated = _producer(data_input(exponential), "Neg") if exponential is not None else None
    return _Found("sigmoid", False, data_input(negated)) if negated is not None else None


def _difference(node: ir.Node, axis: int) -> _Found | None:
    """Match ``x - log(sum(exp(x)))``, with ReduceLogSumExp or in full."""
    x, total = node.inputs
    if x is None or total is None:
        return None
    direct = _producer(total, "ReduceLogSumExp")
    if direct is not None:
        return _Found("softmax", True, _unshifted(x, axis)) if _reduces(direct, x, axis) else None
    logarithm = _producer(total, "Log")
    summed = _producer(data_input(logarithm), "ReduceSum") if logarithm is not None else None
    exponential = _producer(data_input(summed), "Exp") if summed is not None else None
    if summed is None or exponential is None or data_input(exponential) is not x:
        return None
    if not _reduces(summed, data_input(summed), axis):
        return None
    return _Found("softmax", True, _unshifted(x, axis))


_MATCHERS: dict[str, Sequence[Callable[[ir.Node, int], _Found | None]]] = {
    "Softmax": (_softmax,),
    "LogSoftmax": (_softmax,),
    "Sigmoid": (_sigmoid,),
    "Log": (_log,),
    "Exp": (_exp,),
    "Div": (_quotient,),
    "Reciprocal": (_reciprocal,),
    "Sub": (_difference,),
}


def _found_above(value: ir.Value, axis: int) -> _Found | None:
    node = value.producer()
    for matcher in _MATCHERS.get(node.op_type, ()) if node is not None else ():
        assert node is not None
        if (found := matcher(node, axis)) is not None:
            return found
    return None


def _unshifted(x: ir.Value, axis: int) -> ir.Value:
    """Return y where `x` is ``y - max(y)``, which changes no softmax; else `x`."""
    node = _producer(x, "Sub")
    if node is None or node.inputs[1] is None:
        return x
    largest = _producer(node.inputs[1], "ReduceMax")
    if largest is None or not _reduces(largest, data_input(node), axis):
        return x
    return data_input(node)


def _plus_one(node: ir.Node) -> ir.Value | None:
    """Return what 1 is added to by `node`."""
    if node.op_type != "Add":
        return None
    first, second = node.inputs
    return second if scalar_of(first) == 1.0 else first if scalar_of(second) == 1.0 else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def _reduces(node: ir.Node, value: ir.Value, axis: int) -> bool:
    """Say whether `node` reduces `value` over `axis` alone and keeps the dimension."""
    axes = reduced_axes(node) if data_input(node) is value else None
    return axes is not None and [each % _rank(node) for each in axes] == [axis]


def _rank(node: ir.Node) -> int:
    return len(_dimensions(data_input(node))) or 2


def _dimensions(value: ir.Value) -> tuple[object, ...]:
    return () if value.shape is None else tuple(value.shape)


def _class_axis(value: ir.Value, classes: int) -> int | None:
    """Return the axis of the classes: the others, the batch apart, have one element."""
    dims = _dimensions(value)[1:]
    wide = [axis for axis, dim in enumerate(dims, 1) if dim != 1]
    if classes == 1:
        return 1 if value.shape is not None and not wide else None
    return wide[0] if len(wide) == 1 and dims[wide[0] - 1] == classes else None
