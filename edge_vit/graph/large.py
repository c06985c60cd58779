"""Graphs with more weights than one protobuf holds: they keep them in a file beside the graph.

In memory such a graph names its file of weights by an absolute path, as `map_weights` leaves it; in
a bundle by the file's name.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir

from edge_vit.bundle import WEIGHTS, Bundle, digest_of_file
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.graph.exact import locations_of, size_of

LIMIT = 2**31 - 2**24
"""Bytes of weights that are kept inside a graph; the rest of the two GiB is for its nodes."""

_DIGEST = "weights_sha256"  # in the graph, so that its own digest tells its weights too
MIN_BYTES = 1024  # smaller weights stay in the graph

_ALIGNMENT = 1 << 16  # of large weights in their file
_INSIDE = (ir.DataType.INT64, ir.DataType.BOOL)  # shapes and indices, which decide what follows


class Spill:
    """A temporary folder, made when first needed, for the weights of graphs over a limit.

    It lasts as long as this object. `limit` is in bytes, `LIMIT` by default. It is 0 from the first
    file on: what is made of a large graph keeps no weights in memory.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = LIMIT if limit is None else limit
        self._folder: Path | None = None
        self._count = 0

    def reserve(self, num_bytes: int) -> None:
        """Refuse a place without room for weights of `num_bytes`, where they are over the limit.

        They are written twice: as an exporter leaves them, and in canonical form.
        """
        place = tempfile.gettempdir()
        free = shutil.disk_usage(place).free
        if num_bytes > self.limit and free < 2 * num_bytes:
            raise ArtifactError(
                f"{place} has {free / 2**30:.1f} GiB left, and {num_bytes / 2**30:.1f} GiB of "
                "weights are kept there twice for a while. Set TMPDIR to a folder with room"
            )

    def next_path(self) -> Path:
        """Return the path of a new file in it."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="edge-vit-")).resolve()
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._count += 1
        self.limit = 0
        return self._folder / f"{self._count}.data"

    def find_file(self, model: ir.Model) -> Path | None:
        """Return the file that was written for `model` and holds all its large weights."""
        tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value]
        outside = [t for t in tensors if isinstance(t, ir.ExternalTensor)]
        files = {Path(tensor.path) for tensor in outside}
        if len(files) != 1 or any(map(_is_moved, set(tensors).difference(outside))):
            return None
        (path,) = files
        most = sum(tensor.nbytes + _ALIGNMENT for tensor in outside)
        return path if path.parent == self._folder and path.stat().st_size <= most else None


def to_proto(model: ir.Model, spill: Spill | None, *, is_whole: bool = False) -> onnx.ModelProto:
    """Return `model` as a protobuf, its weights in a file of `spill` where they are too many.

    Those in a file already stay there; with `is_whole` they come along.

    Raises:
        SpecError: they are too many, and there is no `spill`.
        ArtifactError: the file cannot be written.
    """
    tensors = [v.const_value for v in model.graph.initializers.values() if v.const_value]
    moved = [t for t in tensors if is_whole or not isinstance(t, ir.ExternalTensor)]
    if sum(tensor.nbytes for tensor in moved) > (spill.limit if spill else LIMIT):
        _move_weights(model, spill)
    elif is_whole:
        ir.external_data.load_to_model(model)
    return ir.to_proto(model)


def spilled(model: onnx.ModelProto, spill: Spill) -> onnx.ModelProto:
    """Return `model`, the weights inside it in a file of `spill` where they are too many."""
    held = (len(tensor.raw_data) for tensor in model.graph.initializer)
    return to_proto(ir.from_proto(model), spill) if sum(held) > LIMIT else model


def serialize(model: onnx.ModelProto, name: str, spill: Spill | None) -> tuple[bytes, Path | None]:
    """Return `model` as the file `name` of a bundle; with it the file of its weights, if too many.

    Raises:
        SpecError: they are too many, and there is no `spill`.
        ArtifactError: the file of the weights cannot be written.
    """
    is_large = size_of(model) > LIMIT
    if not is_large and not any(locations_of(model)):
        return model.SerializeToString(), None
    own = ir.from_proto(model)
    if not is_large:
        return ir.to_proto(ir.external_data.load_to_model(own)).SerializeToString(), None
    path = (spill.find_file(own) if spill else None) or _move_weights(own, spill)
    model = ir.to_proto(own)
    for entry in locations_of(model):
        entry.value = PurePosixPath(name + WEIGHTS).name
    onnx.helper.set_model_props(model, {_DIGEST: digest_of_file(path)[0]})
    return model.SerializeToString(), path


def files_of(model: onnx.ModelProto, name: str, spill: Spill | None) -> dict[str, bytes | Path]:
    """Return the files of a bundle that hold `model`, the graph itself as `name`; see above."""
    graph, weights = serialize(model, name, spill)
    return {name: graph} if weights is None else {name: graph, name + WEIGHTS: weights}


def read_graph(bundle: Bundle, name: str = "") -> onnx.ModelProto:
    """Return the graph in the file `name` of `bundle`, the fp32 one by default.

    Its weights stay in their file, if they have one, whose digest is checked.
    """
    name = name or bundle.graph()
    model = onnx.load_from_string(bundle.read(name))
    weights = bundle.find_weights(name)
    if weights is not None:
        for entry in locations_of(model):
            entry.value = str(weights.resolve())
        del model.metadata_props[:]
    return model


def _move_weights(model: ir.Model, spill: Spill | None) -> Path:
    """Write the large weights of `model` into a file, which it names from then on; return it."""
    values = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None and _is_moved(value.const_value)
    ]
    if spill is None:
        total = sum(value.const_value.nbytes for value in values if value.const_value)
        raise SpecError(
            f"the graph holds {total / 2**30:.1f} GiB of weights, at most 2 GiB fit into one file"
        )
    path = spill.next_path()
    try:
        moved: Sequence[ir.ExternalTensor] = ir.external_data.convert_tensors_to_external(
            [value.const_value for value in values if value.const_value], path.parent, path.name
        )
    except OSError as error:
        raise ArtifactError(
            f"{path.parent}: cannot keep the weights there: {error.strerror or error}. "
            "Set TMPDIR to a folder with room"
        ) from None
    for value, tensor in zip(values, moved, strict=True):
        value.const_value = ir.ExternalTensor(
            str(path),
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
        )
    return path


def _is_moved(tensor: ir.TensorProtocol) -> bool:
    is_large = tensor.nbytes >= MIN_BYTES and tensor.dtype not in _INSIDE
    return is_large or isinstance(tensor, ir.ExternalTensor)
