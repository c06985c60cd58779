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

from edge_vit.errors import ArtifactError
from edge_vit.graph.constant import add_constant, new_node, replace_input
from edge_vit.graph.stream import Entry, Exit, Refusal, Stream, Written, find_stream
from edge_vit.graph.stream_steps import Norm, bias_of, gain_of
from edge_vit.graph.walk import Array, array_of, find_linear
from edge_vit.spec.table import CalibrationTable

Matrix = npt.NDArray[np.float64]


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


def rotate(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return `model` with its residual stream turned and its weights inside; the same function.

    Raises:
        ArtifactError: it has no stream that can be turned; the message says why.
    """
    turned = ir.from_proto(model)
    stream = find_stream(turned.graph)
    if isinstance(stream, Refusal):
        raise ArtifactError(
            f"the calibration table rotates the residual stream, and {stream}. "
            "Run: edgevit calibrate"
        )
    rotate_stream(turned.graph, stream, make_rotation(stream.width, seed))
    # Those that stay as they are would else point into the file of the graph that they came from.
    return ir.to_proto(ir.external_data.load_to_model(turned))


def rotate_as(table: CalibrationTable, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` as `table` was calibrated in: rotated, or as it is."""
    return model if table.rotation is None else rotate(model, table.rotation)


def rotate_stream(graph: ir.Graph, stream: Stream, rotation: Matrix) -> None:
    """Turn `stream` of `graph` by `rotation`: orthogonal, and its rows sum to 1."""
    _Rotator(graph, stream, rotation).run()


@dataclass(frozen=True)
class _Rotator:
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
            data = next(v for v in scale.inputs if v is not None and v.const_value is None)
            scale.outputs[0].replace_all_uses_with(data)
            self.graph.remove(scale, safe=True)

    def _write(self, written: Written) -> None:
        value = written.node.inputs[written.index]
        assert value is not None
        array = array_of(value).astype(np.float64)
        axis, width = written.axis, self.stream.width
        if array.ndim < -axis:
            array = array.reshape(*[1] * (-axis - array.ndim), *array.shape)
        if array.shape[axis] == 1:
            array = array.repeat(width, axis)
        turned = np.moveaxis(array, axis, -1) @ self._into(written.gains)
        self._put(written.node, written.index, np.moveaxis(turned, -1, axis))

    def _into(self, gains: tuple[ir.Value, ...]) -> Matrix:
        turned = self.rotation
        for gain in gains:
            turned = array_of(gain).astype(np.float64).reshape(-1, 1) * turned
        return turned

    def _back(self, norm: Norm | None) -> Matrix:
        """Return what gives a value behind `norm` its own channels, but for the norm's bias."""
        back: Matrix = self.rotation.T
        if norm is not None:
            back = back * gain_of(norm, self.stream.width).astype(np.float64)
        return back

    def _read(self, matmul: ir.Node, norm: Norm | None) -> None:
        linear = find_linear(matmul)
        assert linear is not None
        weight = linear.weight.astype(np.float64)
        bias = None if norm is None else bias_of(norm, self.stream.width)
        self._put(matmul, 1, self._back(norm) @ weight)
        if bias is None or not bias.any():
            return
        more = bias.astype(np.float64) @ weight
        if linear.add is None:
            self._add(matmul, more)
            return
        index = next(i for i, v in enumerate(linear.add.inputs) if v is not None and v.const_value)
        old = linear.add.inputs[index]
        assert old is not None
        shape = array_of(old).shape[:-1]
        self._put(linear.add, index, (linear.bias + more).reshape(*shape, -1))

    def _leave(self, leaving: Exit) -> None:
        """Give all that reads the value in its own channels a product of it."""
        value, name = leaving.value, f"{leaving.value.name}/unrotated"
        is_output = value.is_graph_output()
        bias = None if leaving.norm is None else bias_of(leaving.norm, self.stream.width)
        turned = self._product(value, self._back(leaving.norm), name, bias)
        for node, index in leaving.readers:
            node.replace_input_with(index, turned)
        if is_output:
            at = list(self.graph.outputs).index(value)
            value.name, turned.name = f"{value.name}/rotated", value.name
            turned.shape, turned.type = value.shape, value.type
            self.graph.outputs[at] = turned

    def _enter(self, entry: Entry) -> None:
        every = ((use.node, use.idx) for use in tuple(entry.value.uses()))
        readers = [entry.reader] if entry.reader is not None else list(every)
        turned = self._product(entry.value, self._into(entry.gains), f"{entry.value.name}/rotated")
        for node, index in readers:
            node.replace_input_with(index, turned)

    def _product(
        self, value: ir.Value, matrix: Matrix, name: str, bias: Array | None = None
    ) -> ir.Value:
        constant = add_constant(self.graph, f"{name}.1", matrix.astype(np.float32))
        node = new_node("MatMul", name, [value, constant])
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        producer = value.producer()
        assert producer is not None
        self.graph.insert_after(producer, node)
        return node.outputs[0] if bias is None or not bias.any() else self._add(node, bias)

    def _add(self, matmul: ir.Node, bias: Array) -> ir.Value:
        """Add a bias behind `matmul`, for all that read it."""
        product, name = matmul.outputs[0], f"{matmul.name}/bias"
        rank = 3 if product.shape is not None and len(product.shape) > 2 else 1
        shaped = bias.astype(np.float32).reshape(*[1] * (rank - 1), -1)
        constant = add_constant(self.graph, f"{name}.1", shaped)
        uses, is_output = tuple(product.uses()), product.is_graph_output()
        node = new_node("Add", name, [product, constant])
        added = node.outputs[0]
        added.shape, added.type = product.shape, product.type
        self.graph.insert_after(matmul, node)
        for use in uses:
            use.node.replace_input_with(use.idx, added)
        if is_output:
            at = list(self.graph.outputs).index(product)
            product.name, added.name = f"{name}/product", product.name
            self.graph.outputs[at] = added
        return added

    def _put(self, node: ir.Node, index: int, array: Array) -> None:
        name = f"{node.name}.{index}/rotated"
        constant = add_constant(self.graph, name, np.asarray(array, np.float32))
        replace_input(node, index, constant)
