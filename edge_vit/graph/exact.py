"""ONNX Runtime on a float32 graph: quiet, on the CPU, its memory kept small."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from edge_vit.errors import SpecError
from edge_vit.graph.mapped import read_with_weights
from edge_vit.graph.walk import Array
from edge_vit.runtime.options import threads_of_ort
from edge_vit.spec import ModelSpec

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def feed_image(spec: ModelSpec, image: Array) -> dict[str, Array]:
    """Return what a session of the model is fed for `image`, as often as a static batch wants it.

    Args:
        spec: facts of the model.
        image: uint8 (height, width, 3) RGB, as preprocessed.
    """
    batch = np.broadcast_to(image, (spec.static_batch or 1, *image.shape))
    return {spec.inputs[0].name: np.ascontiguousarray(batch)}


def open_graph(model: bytes, *, as_written: bool = False) -> ort.InferenceSession:
    """Return ONNX Runtime on a serialized graph, on the CPU.

    Args:
        model: the graph, its weights inside.
        as_written: run it node by node; fusing nodes costs up to 3e-4 of the largest output.

    Raises:
        SpecError: ONNX Runtime refuses the graph.
    """
    try:
        return _open(model, _options(None, as_written=as_written))
    except Exception as error:  # ONNX Runtime raises a class of its own for every status code
        line = " ".join(str(error).split())[:300]
        raise SpecError(f"ONNX Runtime refuses the graph: {line}") from None


def open_exact_session(
    model: onnx.ModelProto, threads: int | None, *, as_written: bool = False
) -> ort.InferenceSession:
    """Return ONNX Runtime on a float32 graph, on the CPU, its memory kept small.

    Args:
        model: the graph.
        threads: None for all cores.
        as_written: run node by node what the graph says, nothing fused or left out.
    """
    data, weights = read_with_weights(model)
    del model  # where the caller has let go of it too, the session has its room
    options = _options(threads, as_written=as_written)
    if weights:
        options.add_session_config_entry(_WEIGHTS_FOLDER, weights)
    # One image's activations are freed before the next: the arena would keep the largest of each.
    options.enable_cpu_mem_arena = False
    # Each value is read as soon as it is there, so that it can be freed: measured 360 MiB for 630.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return _open(data, options)


def _options(threads: int | None, *, as_written: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads_of_ort(threads)
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
