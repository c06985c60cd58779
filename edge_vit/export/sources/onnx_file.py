"""An ONNX file that came from anywhere, read with care: whole, in float32, not quantized."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources.values import first_line
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.graph import large
from edge_vit.graph.exact import locations_of
from edge_vit.graph.large import Spill
from edge_vit.graph.weightless import without_weights
from edge_vit.spec import IMAGENET_MEAN, IMAGENET_STD

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)

_CLIP = ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))
_CERTAIN: tuple[npt.ArrayLike, ...] = ((IMAGENET_MEAN, IMAGENET_STD), 0.5, _CLIP)
_OF_BYTES: tuple[npt.ArrayLike, ...] = (((0,), (1,)), (IMAGENET_MEAN, (1 / 255,) * 3))
"""Mean and std that images are normalised with, as parts of the largest value."""

_RUNTIMES = ("com.microsoft", "ai.onnx.", "com.ms.")
"""Beginnings of the domains whose operators ONNX Runtime runs; what is of no use is named later."""

_QUANTIZING = re.compile(
    r"[Qq]uantize|Integer|QLinear|NBits|Bnb4|^Q(Attention|Gemm|MoE|Embed|Ordered)"
)
"""In the name of each operator that makes, takes or multiplies integers for real numbers."""

_NARROW = {
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "INT8",
    TensorProto.INT4: "INT4",
    TensorProto.UINT4: "INT4",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.FLOAT8E5M2: "FP8",
    TensorProto.FLOAT4E2M1: "FP4",
}


def read_graph(path: Path) -> ModelProto:
    """Return the valid model in the file at `path`, with its weights in it.

    Too many of them stay in the files beside it, which are named by absolute paths then.

    Raises:
        ArtifactError: the file is missing, too large or damaged, names weights outside its own
            folder, or holds NaN.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    size = path.stat().st_size
    if size > large.LIMIT:
        raise ArtifactError(
            f"{path} has {size / 2**30:.1f} GiB, and a graph ends at 2. Save it with its weights "
            "beside it: onnx.save(model, FILE, save_as_external_data=True)"
        )
    if not size:
        raise ArtifactError(f"{path} is empty. Fetch it again")
    refuse_lfs_pointer(path)
    try:
        model = onnx.load(path, load_external_data=False)
        _load_external_data(path, model)
        _note_shapes(model)
        is_outside = any(locations_of(model))
        onnx.checker.check_model(without_weights(model) if is_outside else model)
    except DecodeError:
        raise ArtifactError(
            f"{path} is not a valid ONNX model: it is cut off, or something else. Fetch it again"
        ) from None
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a valid ONNX model: {first_line(error)}") from None
    for tensor in model.graph.initializer:  # infinity passes: attention masks hold it
        if tensor.data_type in _FLOATS:
            count = int(np.isnan(_array_of(tensor)).sum())
            if count:
                raise ArtifactError(f"{path} holds NaN: {count} values of {tensor.name}")
    for graph in _graphs_in(model.graph):
        for node in graph.node:
            if node.op_type == "Dropout":  # one that was exported in training mode, too
                del node.input[1:]
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]  # older files list their weights there as well
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    return model


def _note_shapes(model: ModelProto) -> None:
    """Write shapes to inputs and outputs without one: an image's sides are open, outputs follow."""
    for value in model.graph.input:
        kind = value.type.tensor_type
        if kind.elem_type and not kind.HasField("shape"):
            for name in ("batch", "channels", "height", "width"):
                kind.shape.dim.add(dim_param=name)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:  # some converters' word for any
                dim.Clear()
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph.output
    for value, known in zip(model.graph.output, inferred, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(known)


def fix_batch(model: ModelProto, address: str, batch: int | None) -> int | None:
    """Return the only batch size of `model`, or None where it leaves that open.

    `batch` is written into it where it leaves that open.
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


def to_float32(model: ModelProto, spill: Spill) -> tuple[ModelProto, str]:
    """Let everything that is float16 or bfloat16 in `model` be float32; float64, if images are.

    Return it, its weights in a file of `spill` where they are too many by that, and a sentence
    about them or nothing.

    Narrower weights keep their value. What the graph rounded to 16 bits between two operators is
    not rounded any more, so its outputs are those that the file's author trained, or closer to
    them.
    """
    kinds = set(_HALVES)
    if any(v.type.tensor_type.elem_type == TensorProto.DOUBLE for v in model.graph.input):
        kinds.add(TensorProto.DOUBLE)
    found = list[int]()
    for tensor in _tensors_of(model.graph):
        if tensor.data_type in kinds:
            found.append(tensor.data_type)
            array = _array_of(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for graph in _graphs_in(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in kinds:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.name in ("to", "dtype") and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
    if not found:
        return model, ""
    names = " or ".join(helper.tensor_dtype_to_np_dtype(kind).name for kind in sorted(set(found)))
    return large.spilled(model, spill), (
        f"{len(found)} weights are {names}; fp32 is made of them as they are, and that is what "
        "everything is compared with"
    )


def refuse_foreign(model: ModelProto, address: str) -> None:
    """Refuse operators of a domain that neither ONNX Runtime knows nor the file defines."""
    known = {"", "ai.onnx", *(function.domain for function in model.functions)}
    for node in _nodes_of(model):
        if node.domain not in known and not node.domain.startswith(_RUNTIMES):
            raise SpecError(
                f"{address}: node {node.name or node.output[0]!r} is {node.domain}.{node.op_type}, "
                "an operator of a plug-in. Export the model with standard operators in its place"
            )


def refuse_quantized(model: ModelProto, address: str) -> None:
    """Refuse a graph whose weights or activations are rounded to 8 or 4 bits already."""
    nodes = [node for node in _nodes_of(model) if _QUANTIZING.search(node.op_type)]
    weights = [tensor for tensor in model.graph.initializer if _is_quantized(tensor)]
    if not nodes and not weights:
        return
    kind = next((_NARROW[tensor.data_type] for tensor in weights), "INT8")
    where = [f"{node.op_type} at node {node.name or node.output[0]!r}" for node in nodes]
    where = where or [f"weight {tensor.name!r}" for tensor in weights]
    more = f" and {len(where) - 1} more" if len(where) > 1 else ""
    raise SpecError(
        f"{address} is {kind} already ({where[0]}{more}). Give the float file that it was made of: "
        "edge-vit quantizes it, and compares with it"
    )


def _is_quantized(tensor: TensorProto) -> bool:
    """Return whether a weight holds rounded numbers; zeros and ones are a mask."""
    if tensor.data_type not in _NARROW or len(tensor.dims) < 2:
        return False
    if tensor.data_type != TensorProto.UINT8:
        return True
    return bool(np.unique(_array_of(tensor)).size > 2)


def _array_of(tensor: TensorProto) -> npt.NDArray[Any]:
    """Return the numbers of a tensor, mapped where they are in a file."""
    return ir.serde.deserialize_tensor(tensor).numpy()


def own_normalisation(graph: GraphProto) -> tuple[list[float], list[float]]:
    """Return mean and std that constants behind a graph's first input come to, 0 and 1 without."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    factor, offset, value = np.ones(3), np.zeros(3), graph.input[0].name
    while len(readers := [node for node in graph.node if value in node.input]) == 1:
        node = readers[0]
        others = [tensors.get(name) for name in node.input if name != value]
        if node.op_type in ("Sub", "Div", "Mul", "Add") and others and others[0] is not None:
            is_first = node.input[0] == value or node.op_type in ("Mul", "Add")
            if not is_first or math.prod(others[0].dims) not in (1, 3):
                break
            number = _array_of(others[0]).reshape(-1).astype(np.float64)
            if node.op_type in ("Add", "Sub"):
                offset = offset + (number if node.op_type == "Add" else -number)
            elif number.all() and np.isfinite(number).all():
                number = number if node.op_type == "Mul" else 1 / number
                factor, offset = factor * number, offset * number
            else:
                break
        elif node.op_type not in ("Cast", "Identity", "Transpose"):
            break
        value = node.output[0]
    return (-offset / factor + 0.0).tolist(), (1 / factor).tolist()


def largest_value(mean: list[float], std: list[float]) -> tuple[float, bool]:
    """Return the largest value of images normalised so, 1 or 255, and whether that is certain.

    Certain are, to 2 %, the pairs above. Else, as parts of it, each mean is 0.1 to 0.9, each std
    0.15 to 0.51 and, of bytes, one of them 0.5 or ImageNet's, to 3 %. It is 0 for anything else.
    """
    for most, certain in ((1.0, _CERTAIN), (255.0, _CERTAIN + _OF_BYTES)):
        parts = np.array([mean, std]) / most
        if any(np.allclose(parts, pair, 0.02, 1e-6) for pair in certain):
            return most, True
        is_near = most == 1 or any(np.isclose(parts, pair, 0.03).any() for pair in _CERTAIN[:2])
        if is_near and (abs(parts.T - (0.5, 0.33)) <= (0.4, 0.18)).all():
            return most, False
    return 0.0, False


def _load_external_data(path: Path, model: ModelProto) -> None:
    """Read the weights that `model`, the file at `path`, keeps in other files, into it.

    Where they are too many in float32, those of the graph itself stay where they are.

    They must lie in the file's folder, or, where the file is a link as in the cache of Hugging
    Face's hub, in the folder of what it leads to. Links to anywhere else are refused: a model must
    not read what its owner did not give.
    """
    folders = (path.parent.resolve(), path.resolve().parent)
    kept = [t for t in _tensors_of(model.graph) if t.data_location == TensorProto.EXTERNAL]
    total = path.stat().st_size
    total += sum(_num_bytes(t) * (1 + (t.data_type in _HALVES)) for t in kept)
    outside = set[str]()
    if total > large.LIMIT:
        outside = {t.name for t in model.graph.initializer if t.data_type in (*_FLOATS, *_HALVES)}
    for tensor in kept:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, wanted = entries.get("location", ""), _num_bytes(tensor)
        where = f"{path} keeps tensor {tensor.name} in {location!r}"
        target = _resolve(path, folders, where, location)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        except ValueError:
            offset = length = -1
        if offset < 0 or length != wanted:
            raise ArtifactError(
                f"{where} at {entries.get('offset', 0)}, {entries.get('length')} bytes long, "
                f"expected {wanted}: the file is damaged"
            )
        if target.stat().st_size < offset + wanted:
            raise ArtifactError(
                f"{where}, which ends before it: {target.stat().st_size} bytes, expected "
                f"{offset + wanted}. Fetch it again"
            )
        del tensor.external_data[:]
        if tensor.name in outside and wanted >= large.MIN_BYTES:
            place = {"location": target, "offset": offset, "length": wanted}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            continue
        with target.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(wanted)
        tensor.data_location = TensorProto.DEFAULT


def _resolve(path: Path, folders: tuple[Path, Path], where: str, location: str) -> Path:
    """Return the file at `location` beside `path`."""
    is_absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    outside = is_absolute or not location or ".." in PureWindowsPath(location).parts
    target = (path.parent / location).resolve()
    if outside or not any(target.is_relative_to(folder) for folder in folders):
        raise ArtifactError(f"{where}, expected a file beside it")
    if not target.is_file():
        raise ArtifactError(f"{path} keeps its weights in {location!r}, which is not beside it")
    refuse_lfs_pointer(target)
    return target


def _num_bytes(tensor: TensorProto) -> int:
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return -(-count // 2)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield `graph` and the subgraphs of its nodes, at any depth."""
    yield graph
    for node in graph.node:
        yield from _graphs_of(node)


def _graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _graphs_in(graph)


def _nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node of `model`, those of functions and subgraphs too."""
    inner = [node for function in model.functions for node in function.node]
    graphs = [*_graphs_in(model.graph), *(graph for node in inner for graph in _graphs_of(node))]
    yield from inner
    for graph in graphs:
        yield from graph.node


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor in `graph`: initializers, attributes, and those of subgraphs."""
    for each in _graphs_in(graph):
        yield from each.initializer
        for sparse in each.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in each.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
