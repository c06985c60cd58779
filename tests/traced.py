"""Graphs of small modules from torch's older exporter, which most ONNX files come from.

Its graphs of our small models have the canonical form that `trace_module` gives, and the same
outputs to the bit, in a thirtieth of the time.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO

import onnx
import pytest
import torch
from torch import Tensor

from edge_vit.export.trace import trace_module
from edge_vit.graph.large import Spill
from edge_vit.spec import TensorSpec

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
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(torch, "rms_norm", _rms_norm)  # the exporter does not know it
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


def _rms_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return normed if weight is None else normed * weight


def trace_small(
    module: torch.nn.Module,
    image_size: tuple[int, int],
    batch: int | None = None,
    frames: int | None = None,
    inputs: Sequence[TensorSpec] = (),
    spill: Spill | None = None,
) -> onnx.ModelProto:
    """Return the graph of `module` from the older exporter, but where it takes `inputs`."""
    if inputs:
        return trace_module(module, image_size, batch, frames, inputs, spill)
    return trace_script(module, image_size, batch, frames=frames)


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Let models of timm that are made here attend by products and a softmax.

    The older exporter refuses torch's own attention behind rotary positions.
    """
    import timm

    timm.layers.set_fused_attn(enable=False)
    try:
        yield
    finally:
        timm.layers.set_fused_attn()


@contextlib.contextmanager
def older_exporter() -> Iterator[None]:
    """Let `export_model` take the older exporter: for what is not about the exporter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_vit.export.export.trace_module", trace_small)
        yield
