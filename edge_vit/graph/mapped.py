"""Keeps a model's weights in a file that every run maps, so that parts cut from a graph are small.

A calibration opens a dozen sessions on parts of one model. With the weights inside, each copy of
the graph and each session would hold them once more.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from edge_vit.errors import ArtifactError

_FILE_NAME = "weights"

_MIN_BYTES = 1024
"""Smaller constants, shapes among them, stay in the graph."""


@contextlib.contextmanager
def map_weights(model: bytes) -> Iterator[onnx.ModelProto]:
    """Yield `model` with its weights in a temporary file, named by absolute paths.

    Copies and parts of the graph may be made; they find their weights as long as the block lasts.
    `read_with_weights` makes of them what ONNX Runtime takes.

    Args:
        model: a serialized graph that holds its weights.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-vit-"))
            path = Path(folder).resolve() / "graph.onnx"
            onnx.save(
                onnx.load_from_string(model),
                path,
                save_as_external_data=True,
                location=_FILE_NAME,
                size_threshold=_MIN_BYTES,
            )
        except OSError as error:
            raise ArtifactError(
                f"{tempfile.gettempdir()}: cannot keep {len(model):,} bytes of weights there: "
                f"{error.strerror or error}. Set TMPDIR to a folder with room"
            ) from None
        del model  # the file holds it now; this frame would until the end
        mapped = onnx.load(path, load_external_data=False)
        _place(mapped, str(path.with_name(_FILE_NAME)))
        yield mapped


def read_with_weights(model: onnx.ModelProto) -> tuple[bytes, str]:
    """Return what ONNX Runtime reads of `model`, and the folder that its weights lie in.

    The folder is empty where the graph holds them itself. ONNX Runtime wants their place relative
    to it: ``session.model_external_initializers_file_folder_path``.
    """
    places = {entry.value for tensor in model.graph.initializer for entry in _location(tensor)}
    if not places:
        return model.SerializeToString(), ""
    (place,) = map(Path, places)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _place(copy, place.name)
    return copy.SerializeToString(), str(place.parent)


def _place(model: onnx.ModelProto, place: str) -> None:
    for tensor in model.graph.initializer:
        for entry in _location(tensor):
            entry.value = place


def _location(tensor: onnx.TensorProto) -> list[onnx.StringStringEntryProto]:
    return [entry for entry in tensor.external_data if entry.key == "location"]
