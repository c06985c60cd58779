"""An ONNX file that came from anywhere, read with care."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources.external_data import load_external_data
from edge_vit.export.sources.values import first_line
from edge_vit.git_lfs import refuse_lfs_pointer

_MAX_BYTES = 2**31 - 1  # of one protobuf message
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def read_graph(path: Path) -> ModelProto:
    """Return the valid model in the file at `path`, with its weights in it.

    Raises:
        ArtifactError: the file is missing, too large or damaged, names weights outside its own
            folder (see `load_external_data`), or holds NaN.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    if path.stat().st_size > _MAX_BYTES:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes, expected at most {_MAX_BYTES}"
        )
    refuse_lfs_pointer(path)
    try:
        model = onnx.load(path, load_external_data=False)
        load_external_data(path, model)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid ONNX model: {first_line(error)}") from None
    _refuse_nan(path, model.graph)
    _end_training(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]  # older files list their weights there as well
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    return model


def fix_batch(model: ModelProto, address: str, batch: int | None) -> int | None:
    """Return the only batch size of `model`, or None where it leaves that open.

    Args:
        model: a graph of one input.
        address: for the message.
        batch: a size to write into it where it leaves that open.

    Raises:
        SpecError: it is made for another size.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    own = dims[0].dim_value if dims[0].HasField("dim_value") else None
    if own is not None and batch not in (None, own):
        raise SpecError(
            f"--static-batch: got {batch}, but {address} is made for batches of {own}. Leave it out"
        )
    if batch is not None:
        shapes = [output.type.tensor_type.shape for output in model.graph.output]
        for dim in (dims[0], *(dim for shape in shapes for dim in shape.dim[:1])):
            dim.dim_value = batch
        del model.graph.value_info[:]  # shapes that an exporter has noted for any batch
    return own or batch


def _end_training(graph: GraphProto) -> None:
    """Let each Dropout pass its input on, where the file was exported in training mode."""
    for node in graph.node:
        if node.op_type == "Dropout":
            del node.input[1:]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _end_training(inner)


def _refuse_nan(path: Path, graph: GraphProto) -> None:
    # Infinity passes: it is how an attention mask says no.
    for tensor in graph.initializer:
        if tensor.data_type not in _FLOATS:
            continue
        count = int(np.isnan(numpy_helper.to_array(tensor)).sum())
        if count:
            raise ArtifactError(f"{path} holds NaN: {count} values of {tensor.name}")
