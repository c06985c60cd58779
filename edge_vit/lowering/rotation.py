"""Turns the residual stream by an orthogonal matrix, without changing the function.

Outlier channels of the stream make its norms' outputs hard to quantize: one scale serves them all.
Turned, every channel is a mix of all, and none stands out. With ``Q 1 = 1``, the vector of ones
stays where it is: mean and variance of ``x Q`` are those of ``x``, and a LayerNormalization without
gain and bias commutes with Q. Gains and biases of norms go into the linear layers that read them,
LayerScale into those that write the stream. QuaRot (Ashkboos et al. 2024) turns LayerNorm into
RMSNorm for that; here every norm stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from edge_vit.errors import ArtifactError
from edge_vit.graph import walk
from edge_vit.graph.channels import find_channel_source
from edge_vit.graph.edit import add_constant, new_node, replace_input
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.sites import find_sites
from edge_vit.graph.stream import Entry, Exit, Gains, Refusal, Stream, Written, find_stream
from edge_vit.graph.stream_steps import Norm
from edge_vit.graph.walk import Array
from edge_vit.spec.table import CalibrationTable

Matrix = npt.NDArray[np.float64]


def as_calibrated(
    table: CalibrationTable, model: onnx.ModelProto, spill: Spill | None = None
) -> onnx.ModelProto:
    """Return `model` in the form that `table` was calibrated in: rotated, scaled, or as it is."""
    if table.rotation is None:
        return scale_hidden(model) if table.recipe.scales_hidden else model
    return to_proto(copy_as_calibrated(table, model), spill, is_whole=True)


def copy_as_calibrated(table: CalibrationTable, model: onnx.ModelProto) -> ir.Model:
    """Return a copy of `model` in that form."""
    copy = ir.from_proto(scale_hidden(model) if table.recipe.scales_hidden else model)
    if table.rotation is not None:
        _turn(copy.graph, table.rotation)
    return copy


def scale_hidden(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that multiplies the input of each fc2 by 1, channel by channel.

    That is where smoothing can put a factor that nothing else can take, since GELU is in front. A
    layer whose input can be scaled already, such as that of a gated MLP, is left as it is.
    """
    copy = ir.from_proto(model)
    for site in find_sites(copy.graph):
        matmul, value, width = site.linear.matmul, site.linear.input, site.linear.shape[0]
        if site.role != "fc2" or find_channel_source(value, width) is not None:
            continue
        name = f"{site.name}/scaled"
        ones = add_constant(copy.graph, f"{name}.1", np.ones(width, np.float32))
        node = new_node("Mul", name, [value, ones], like=value)
        copy.graph.insert_before(matmul, node)
        replace_input(matmul, 0, node.outputs[0])
    return ir.to_proto(copy)


def make_rotation(width: int, seed: int) -> Matrix:
    """Return an orthogonal matrix Q with ``Q 1 = 1``, (width, width), the same for the same seed.

    A random rotation of what is orthogonal to the vector of ones, between two reflections that map
    the first axis to that vector and back.
    """
    # RandomState: numpy keeps its numbers for good, and a table holds the seed alone.
    noise = np.random.RandomState(seed).standard_normal((width - 1, width - 1))
    turned, upper = np.linalg.qr(noise)
    inner = np.eye(width)
    inner[1:, 1:] = turned * np.where(np.diagonal(upper) < 0, -1.0, 1.0)
    ones = np.full(width, width**-0.5)
    mirror = np.eye(width)[0] - ones
    if (norm := float(mirror @ mirror)) > 0:
        inner -= np.outer(mirror, mirror @ inner) * (2 / norm)
        inner -= np.outer(inner @ mirror, mirror) * (2 / norm)
    return inner


def rotate(model: onnx.ModelProto, seed: int, spill: Spill | None = None) -> onnx.ModelProto:
    """Return `model` with its residual stream turned; the same function.

    Its weights are inside, those of a large graph in a file of `spill`.
    """
    turned = ir.from_proto(model)
    _turn(turned.graph, seed)
    # Those that stay as they are would else point into the file of the graph that they came from.
    return to_proto(turned, spill, is_whole=True)


def _turn(graph: ir.Graph, seed: int) -> None:
    stream = find_stream(graph)
    if isinstance(stream, Refusal):
        raise ArtifactError(
            f"the calibration table rotates the residual stream, and {stream}. "
            "Run: edgevit calibrate"
        )
    with threadpool_limits(1, "blas"):  # more threads would spin for six times as long
        _Rotator(graph, stream, make_rotation(stream.width, seed)).run()


@dataclass(frozen=True)
class _Rotator:
    """Turns `stream` of `graph` by `rotation`: orthogonal, and its rows sum to 1."""

    graph: ir.Graph
    stream: Stream
    rotation: Matrix

    def run(self) -> None:
        for written in self.stream.written:
            self._write(written)
        for matmul, norm in self.stream.reads:
            self._read(matmul, norm)
        for leaving in self.stream.exits:
            self._leave(leaving)
        for entry in self.stream.entries:
            self._enter(entry)
        for norm in self.stream.norms:  # their gains are where they were read from
            self._put(norm.node, norm.gain, np.ones(self.stream.width))
            if norm.bias is not None:
                self._put(norm.node, norm.bias, np.zeros(self.stream.width))
        for scale in self.stream.scales:
            scale.outputs[0].replace_all_uses_with(walk.operands(scale)[0])
            self.graph.remove(scale, safe=True)

    def _write(self, written: Written) -> None:
        array = walk.array_of(written.node.inputs[written.index]).astype(np.float64)
        axis = written.axis
        if array.ndim < -axis:
            array = array.reshape(*[1] * (-axis - array.ndim), *array.shape)
        if array.shape[axis] == 1:
            array = array.repeat(self.stream.width, axis)
        turned = np.moveaxis(array, axis, -1) @ self._into(written.gains)
        self._put(written.node, written.index, np.moveaxis(turned, -1, axis))

    def _into(self, gains: Gains) -> Matrix:
        turned = self.rotation
        for gain in gains:
            turned = walk.array_of(gain).astype(np.float64).reshape(-1, 1) * turned
        return turned

    def _back(self, norm: Norm | None) -> Matrix:
        """Return what gives a value behind `norm` its own channels, but for the norm's bias."""
        back: Matrix = self.rotation.T
        return back if norm is None else back * norm.gain_of(self.stream.width).astype(np.float64)

    def _read(self, matmul: ir.Node, norm: Norm | None) -> None:
        linear = walk.find_linear(matmul)
        assert linear is not None
        weight = linear.weight.astype(np.float64)
        bias = None if norm is None else norm.bias_of(self.stream.width)
        self._put(matmul, 1, self._back(norm) @ weight)
        if bias is None or not bias.any():
            return
        more = bias.astype(np.float64) @ weight
        if linear.add is None:
            self._add(matmul, more)
            return
        index = walk.constant_index(linear.add)
        shape = walk.array_shape(linear.add.inputs[index])[:-1]
        self._put(linear.add, index, (linear.bias + more).reshape(*shape, -1))

    def _leave(self, leaving: Exit) -> None:
        """Give all that reads the value in its own channels a product of it."""
        value, norm = leaving.value, leaving.norm
        is_output = value.is_graph_output()
        bias = None if norm is None else norm.bias_of(self.stream.width)
        turned = self._product(value, self._back(norm), f"{value.name}/unrotated", bias)
        for node, index in leaving.readers:
            node.replace_input_with(index, turned)
        if is_output:
            self._take_output(value, turned, f"{value.name}/rotated")

    def _enter(self, entry: Entry) -> None:
        every = [(use.node, use.idx) for use in entry.value.uses()]
        readers = [entry.reader] if entry.reader is not None else every
        turned = self._product(entry.value, self._into(entry.gains), f"{entry.value.name}/rotated")
        for node, index in readers:
            node.replace_input_with(index, turned)

    def _product(
        self, value: ir.Value, matrix: Matrix, name: str, bias: Array | None = None
    ) -> ir.Value:
        constant = add_constant(self.graph, f"{name}.1", matrix.astype(np.float32))
        node = new_node("MatMul", name, [value, constant], like=value)
        producer = value.producer()
        assert producer is not None
        self.graph.insert_after(producer, node)
        return node.outputs[0] if bias is None or not bias.any() else self._add(node, bias)

    def _add(self, matmul: ir.Node, bias: Array) -> ir.Value:
        """Add a bias behind `matmul`, for all that read it."""
        product, name = matmul.outputs[0], f"{matmul.name}/bias"
        shape = (1, 1, -1) if len(walk.dims_of(product)) > 2 else (-1,)
        constant = add_constant(self.graph, f"{name}.1", bias.astype(np.float32).reshape(shape))
        uses, is_output = tuple(product.uses()), product.is_graph_output()
        node = new_node("Add", name, [product, constant], like=product)
        added = node.outputs[0]
        self.graph.insert_after(matmul, node)
        for use in uses:
            use.node.replace_input_with(use.idx, added)
        if is_output:
            self._take_output(product, added, f"{name}/product")
        return added

    def _take_output(self, old: ir.Value, new: ir.Value, name: str) -> None:
        """Let `new` be an output of the graph in place of `old`, which is called `name` then."""
        at = list(self.graph.outputs).index(old)
        new.name, old.name = old.name, name
        new.shape, new.type = old.shape, old.type
        self.graph.outputs[at] = new

    def _put(self, node: ir.Node, index: int, array: Array) -> None:
        name = f"{node.name}.{index}/rotated"
        constant = add_constant(self.graph, name, np.asarray(array, np.float32))
        replace_input(node, index, constant)
