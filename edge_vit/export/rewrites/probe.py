"""Runs a graph to learn what its values are: shapes, folded constants, where elements go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_vit.errors import SpecError
from edge_vit.graph.expose import expose
from edge_vit.graph.walk import Array

PROBE_BATCHES = (2, 3, 5)


def run_values(model: ir.Model, values: Sequence[ir.Value], batch: int) -> dict[str, Array]:
    """Return the arrays of `values`, by name, for one run on seeded noise.

    Args:
        model: a graph of one input.
        values: named values in it.
        batch: images in the run, where the graph leaves it open.

    Raises:
        SpecError: ONNX Runtime cannot run the graph.
    """
    names = [value.name or "" for value in values]
    proto = expose(ir.to_proto(model), names, only=True)
    session = make_session(proto)
    (image,) = session.get_inputs()
    shape = [batch if not isinstance(dim, int) else dim for dim in image.shape]
    noise = np.random.default_rng(0).standard_normal(shape)
    is_float = "float" in image.type
    feed = noise.astype(np.float32) if is_float else (noise * 50 + 128).clip(0, 255).astype("u1")
    try:
        return dict(zip(names, session.run(names, {image.name: feed}), strict=True))
    except Exception as error:  # ONNX Runtime raises a class of its own for every status code
        raise SpecError(f"the graph does not run at batch size {batch}: {_line(error)}") from None


def make_session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Return an unoptimised ONNX Runtime session of `model`.

    Raises:
        SpecError: ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise SpecError(f"ONNX Runtime refuses the graph: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
