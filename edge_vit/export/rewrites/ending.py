"""Finds what a graph does to its logits at the very end: softmax, sigmoid, or the log of either.

Such an end is taken off, so that the graph gives logits: INT8 and its error are judged on those,
and the activation is applied once, outside. The end is known by what it computes: the last nodes
are run on noise, and compared with the activation over the axis of the classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edge_vit.export.rewrites.probe import runner_of
from edge_vit.graph.edit import Builder
from edge_vit.graph.walk import Array, array_shape, dims_of, is_constant, operands
from edge_vit.spec import Activation
from edge_vit.tasks.numerics import FloatArray, activate, log_sigmoid, log_softmax

MARGIN = 1e-3  # largest distance from 0 and 1 of the bounds that a model clips its probabilities to

_MAX_NODES = 16
_LAYERS = frozenset({"MatMul", "Gemm", "Conv", "LayerNormalization", "Gather"})
"""Operators that are no part of an end: what they read are no logits."""

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_ACTIVATIONS: tuple[tuple[Activation, bool, Callable[[FloatArray], FloatArray]], ...] = (
    ("softmax", False, lambda logits: activate("softmax", logits)),
    ("sigmoid", False, lambda logits: activate("sigmoid", logits)),
    ("softmax", True, log_softmax),
    ("sigmoid", True, log_sigmoid),
)


@dataclass(frozen=True)
class Ending:
    """The last operation on logits."""

    activation: Activation  # softmax or sigmoid
    is_log: bool  # whether the logarithm of the probabilities comes out
    scale: float  # positive number that either is multiplied by
    logits: ir.Value  # what goes in, (batch, classes) but for further axes of 1
    # (batch, classes) -> what the graph gave before its end was taken off
    restore: Callable[[FloatArray], FloatArray]

    @property
    def name(self) -> str:
        """The end in words, such as ``LogSoftmax``."""
        name = ("Log" if self.is_log else "") + self.activation.capitalize()
        return name if self.scale == 1 else f"{self.scale:g} times {name}"


def find_ending(graph: ir.Graph) -> Ending | None:
    """Return the end of the first output of `graph`, (batch, classes), or None where it has none.

    Shapes are expected to be inferred. The logits are the first value that the activation is of:
    neither casts and moves nor a shift by the largest keep them from being found.
    """
    classes = dims_of(graph.outputs[0])[-1:]
    if not classes or not isinstance(classes[0], int):
        return None
    found = None
    for value, nodes in _tails(graph):
        if value.dtype in _HALVES:
            return found  # rounded so, it is not what float32 gives outside
        if value.dtype in (ir.DataType.FLOAT, None) and _is_row(value, classes[0]):
            found = _match(graph.outputs[0], value, nodes, classes[0]) or found
    return found


def strip_ending(graph: ir.Graph, ending: Ending) -> None:
    """Make the logits the only output of `graph`; unused nodes are left to a later pass."""
    logits = ending.logits
    if len(dims_of(logits)) != 2:
        shape = graph.outputs[0].shape
        build = Builder(graph, graph[-1])
        classes = dims_of(graph.outputs[0])[-1]
        logits = build.one("Reshape", logits, build.ints(-1, classes))
        logits.shape, logits.type = shape, ending.logits.type
    del graph.outputs[1:]
    graph.outputs[0] = logits


def _tails(graph: ir.Graph) -> Iterator[tuple[ir.Value, tuple[ir.Node, ...]]]:
    """Yield each value that alone the first output is made of, and the nodes between; last first.

    Only the last few nodes count, none of them with weights.
    """
    place = {node: index for index, node in enumerate(graph)}
    frontier, nodes = {graph.outputs[0]}, list[ir.Node]()
    while frontier and len(nodes) < _MAX_NODES:
        makers = [node for value in frontier if (node := value.producer()) is not None]
        if len(makers) < len(frontier):
            return
        node = max(makers, key=place.__getitem__)
        if node.op_type in _LAYERS or any(map(_is_weight, node.inputs)):
            return
        nodes.insert(0, node)
        frontier = (frontier - set(node.outputs)) | set(operands(node))
        if len(frontier) == 1:
            yield next(iter(frontier)), tuple(nodes)


def _is_weight(value: ir.Value | None) -> bool:
    if value is None or value.dtype != ir.DataType.FLOAT or not is_constant(value):
        return False
    return math.prod(array_shape(value)) > 1


def _is_row(value: ir.Value, classes: int) -> bool:
    """Return whether `value` has one vector of the classes for each image."""
    wide = [dim for dim in dims_of(value)[1:] if dim != 1]
    return value.shape is not None and wide == ([] if classes == 1 else [classes])


def _match(
    output: ir.Value, logits: ir.Value, nodes: tuple[ir.Node, ...], classes: int
) -> Ending | None:
    """Return the end that `nodes` are, if they make of noise what an activation makes of it."""
    batch, *rest = (dim if isinstance(dim, int) else 3 for dim in dims_of(logits))
    noise = np.random.default_rng(0).normal(0, 4, (batch, classes)).astype(np.float32)
    try:
        run = runner_of(nodes, logits, output)
        given = run(noise.reshape(batch, *rest)).reshape(batch, classes).astype(np.float64)
    except Exception:  # of another type, or at another batch size than the noise
        return None

    def restore(values: FloatArray) -> Array:
        return run(np.asarray(values, np.float32).reshape(len(values), *rest))

    for activation, is_log, function in _ACTIVATIONS:
        if classes == 1 and activation == "softmax":  # 1 whatever comes
            continue
        wanted = function(noise.astype(np.float64))
        scale = float(f"{(given * wanted).sum() / np.square(wanted).sum():.3g}")
        if scale > 0 and np.allclose(given / scale, wanted, rtol=MARGIN, atol=MARGIN):
            return Ending(activation, is_log, scale, logits, restore)
    return None
