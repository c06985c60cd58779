"""ONNX Runtime on a float32 graph: quiet, on the CPU, its memory kept small.

A calibration opens a dozen sessions on parts of one model. With the weights inside, each copy of
the graph and each session would hold them once more: a file that all of them map holds them once.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.graph.walk import Array
from edge_vit.runtime.options import threads_of_ort
from edge_vit.runtime.ort import WEIGHTS_FOLDER
from edge_vit.spec import ModelSpec
from edge_vit.spec.samples import Rows, feeds_of

_FILE_NAME = "weights"
_MIN_BYTES = 1024  # smaller constants, shapes among them, stay in the graph
_MIN_RETURNED = 8 << 20  # smaller graphs are not worth the time of a collection


def feed_image(spec: ModelSpec, image: Array) -> dict[str, Array]:
    """Return what a session of the model is fed for `image`, uint8 (height, width, 3), or a sample.

    It is repeated to fill a static batch.
    """
    batch = np.broadcast_to(image, (spec.static_batch or 1, *image.shape))
    return feeds_of(spec.inputs, batch)


def runner_of_graph(
    model: bytes | onnx.ModelProto, spec: ModelSpec
) -> Callable[[Rows], dict[str, Array]]:
    """Return a function from images or samples to the outputs of a float32 graph, by name."""
    session, names = open_graph(model), [output.name for output in spec.outputs]

    def run(rows: Rows) -> dict[str, Array]:
        size = spec.static_batch or len(rows)
        filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
        found = [
            session.run(names, feeds_of(spec.inputs, filled[start : start + size]))
            for start in range(0, len(filled), size)
        ]
        each = (np.concatenate(parts)[: len(rows)] for parts in zip(*found, strict=True))
        return dict(zip(names, each, strict=True))

    return run


def one_line(error: Exception) -> str:
    """Return the text of an error of ONNX or ONNX Runtime in one line, cut to fit a message."""
    return " ".join(str(error).split())[:300]


def open_graph(model: bytes | onnx.ModelProto, *, as_written: bool = False) -> ort.InferenceSession:
    """Return ONNX Runtime on a graph, on the CPU; it has all weights inside, or in other files.

    With `as_written` it runs node by node; fusing nodes costs up to 3e-4 of the largest output.
    """
    try:
        data, weights = (model, "") if isinstance(model, bytes) else read_with_weights(model)
        options = _options(None, as_written=as_written)
        if weights:
            options.add_session_config_entry(WEIGHTS_FOLDER, weights)
        return _open(data, options)
    except Exception as error:  # ONNX Runtime raises a class of its own for every status code
        raise SpecError(f"ONNX Runtime refuses the graph: {one_line(error)}") from None


def open_exact_session(
    model: onnx.ModelProto, threads: int | None, *, as_written: bool = False
) -> ort.InferenceSession:
    """Return ONNX Runtime on a float32 graph, its memory kept small; None `threads`: all cores.

    The weights of `model` may lie in the file of `map_weights`.
    """
    data, weights = read_with_weights(model)
    del model  # where the caller has let go of it too, the session has its memory
    options = _options(threads, as_written=as_written)
    if weights:
        options.add_session_config_entry(WEIGHTS_FOLDER, weights)
    # One image's activations are freed before the next: the arena would keep the largest of each.
    options.enable_cpu_mem_arena = False
    # Each value is read as soon as it is there, so that it can be freed: measured 360 MiB for 630.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return _open(data, options)


def return_memory(num_bytes: int) -> None:
    """Give memory that is not in use back to the system, where graphs have `num_bytes` or more.

    A graph refers to itself, so that its weights stay until they are collected, and glibc keeps
    what was freed in pieces.
    """
    if num_bytes < _MIN_RETURNED:
        return
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # a system without glibc
        ctypes.CDLL(None).malloc_trim(0)


def set_malloc_thresholds() -> None:
    """Give arrays of 8 MiB or more pages of their own, which go back as they are freed.

    glibc would take them from the heap once one was freed, where they leave holes. The setting
    holds for the whole process from here on.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 8 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD, or it would be 128 KiB from here on


def _options(threads: int | None, *, as_written: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads_of_ort(threads)
    # Threads that spin while they wait take two fifths of the processor's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def map_weights(model: bytes | onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """Yield a graph with its weights in a temporary file, named by absolute paths.

    A `model` that is not serialized loses them; one whose weights lie in a file keeps it.

    Copies and parts of the graph find their weights as long as the block lasts;
    `open_exact_session` takes them.

    Raises:
        ArtifactError: the file cannot be written.
    """
    proto = onnx.load_from_string(model) if isinstance(model, bytes) else model
    if any(locations_of(proto)):
        yield proto
        return
    num_bytes = size_of(proto)
    del model
    return_memory(num_bytes)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-vit-"))
            path = Path(folder).resolve() / "graph.onnx"
            onnx.save(
                proto,
                path,
                save_as_external_data=True,
                location=_FILE_NAME,
                size_threshold=_MIN_BYTES,
            )
        except OSError as error:
            raise ArtifactError(
                f"{tempfile.gettempdir()}: cannot keep {num_bytes:,} bytes of weights there: "
                f"{error.strerror or error}. Set TMPDIR to a folder with room"
            ) from None
        del proto  # the file holds it now; this frame would until the end
        return_memory(num_bytes)
        mapped = onnx.load(path, load_external_data=False)
        for entry in locations_of(mapped):
            entry.value = str(path.with_name(_FILE_NAME))
        yield mapped


def read_with_weights(model: onnx.ModelProto) -> tuple[bytes, str]:
    """Return what ONNX Runtime reads of `model`, and the folder of its weights; "" without one.

    ONNX Runtime wants their places relative to that folder.
    """
    folders = {str(Path(entry.value).parent) for entry in locations_of(model)}
    if not folders:
        return model.SerializeToString(), ""
    folder = os.path.commonpath(folders)
    moved = copy.deepcopy(model)
    for entry in locations_of(moved):
        entry.value = Path(entry.value).relative_to(folder).as_posix()
    return moved.SerializeToString(), folder


def size_of(model: onnx.ModelProto) -> int:
    """Return the bytes of the weights of a graph, in it and in another file."""
    held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    return held + sum(int(entry.value) for entry in _entries(model, "length"))


def locations_of(model: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    """Yield the entry of each weight in another file that says which."""
    return _entries(model, "location")


def _entries(model: onnx.ModelProto, key: str) -> Iterator[onnx.StringStringEntryProto]:
    for tensor in model.graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == key)
