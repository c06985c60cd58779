"""Weights that lie beside an ONNX file, read from where they may lie and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from edge_vit.errors import ArtifactError
from edge_vit.git_lfs import refuse_lfs_pointer

_MAX_BYTES = 2**31 - 2**20  # what one protobuf file can hold


def tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor in `graph`: initializers, attributes, and those of subgraphs."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for subgraph in (attribute.g, *attribute.graphs):
                yield from tensors_of(subgraph)


def load_external_data(path: Path, model: ModelProto) -> None:
    """Read the weights that `model`, the file at `path`, keeps in other files, into it.

    They must lie in the file's folder, or, where the file is a link as in the cache of Hugging
    Face's hub, in the folder of what it leads to. Links to anywhere else are refused: a model must
    not read what its owner did not give.

    Raises:
        ArtifactError: a file is missing, elsewhere, or shorter than its tensors, or they are more
            than 2 GiB.
    """
    folders = (path.parent.resolve(), path.resolve().parent)
    kept = [t for t in tensors_of(model.graph) if t.data_location == TensorProto.EXTERNAL]
    total = sum(map(_num_bytes, kept))
    if total > _MAX_BYTES:
        raise ArtifactError(
            f"{path} keeps {total / 2**30:.1f} GiB of weights beside it, at most 2 GiB fit into "
            "one ONNX file. Models of this size are not supported yet"
        )
    for tensor in kept:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        target = _resolve(path, folders, tensor.name, location)
        wanted = _num_bytes(tensor)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        except ValueError:
            offset = length = -1
        if offset < 0 or length != wanted:
            raise ArtifactError(
                f"{path} keeps tensor {tensor.name} in {location!r} at {entries.get('offset', 0)}, "
                f"{entries.get('length')} bytes long, expected {wanted}: the file is damaged"
            )
        with target.open("rb") as file:
            file.seek(offset)
            data = file.read(wanted)
        if len(data) < wanted:
            raise ArtifactError(
                f"{path} keeps tensor {tensor.name} in {location!r}, which ends before it: "
                f"{target.stat().st_size} bytes, expected {offset + wanted}. Fetch it again"
            )
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _resolve(path: Path, folders: tuple[Path, Path], name: str, location: str) -> Path:
    """Return the file at `location` beside `path`."""
    is_absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    outside = is_absolute or not location or ".." in PureWindowsPath(location).parts
    target = (path.parent / location).resolve()
    if outside or not any(target.is_relative_to(folder) for folder in folders):
        raise ArtifactError(
            f"{path} keeps tensor {name} in {location!r}, expected a file beside it"
        )
    if not target.is_file():
        raise ArtifactError(f"{path} keeps its weights in {location!r}, which is not beside it")
    refuse_lfs_pointer(target)
    return target


def _num_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the numbers of `tensor` take up."""
    count: int = math.prod(tensor.dims)
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
        return -(-count // 2)
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
