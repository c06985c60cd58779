"""ONNX Runtime on a float32 graph: quiet, on the CPU, its memory kept small."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

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


def open_exact_session(
    model: onnx.ModelProto, threads: int | None, *, as_written: bool = False
) -> ort.InferenceSession:
    """Return ONNX Runtime on a float32 graph, on the CPU, saying nothing, its memory kept small.

    Args:
        model: the graph.
        threads: None for all cores.
        as_written: run node by node what the graph says, nothing fused or left out.
    """
    data, weights = read_with_weights(model)
    del model  # where the caller has let go of it too, the session has its room
    options = ort.SessionOptions()
    if weights:
        options.add_session_config_entry(_WEIGHTS_FOLDER, weights)
    options.log_severity_level = 4
    options.intra_op_num_threads = threads_of_ort(threads)
    # One image's activations are freed before the next: the arena would keep the largest of each.
    options.enable_cpu_mem_arena = False
    # Each value is read as soon as it is there, so that it can be freed: measured 360 MiB for 630.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
