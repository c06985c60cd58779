"""torch module -> ONNX, as the exporter writes it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_vit.errors import SpecError
from edge_vit.graph.edit import replace_value
from edge_vit.graph.large import Spill, to_proto
from edge_vit.graph.walk import array_of, data_input, dims_of
from edge_vit.spec import TensorSpec

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TRACE_BATCH = 2  # with 1, exporters write the batch size into the graph


def trace_module(
    module: torch.nn.Module,
    image_size: tuple[int, int],
    batch: int | None = None,
    frames: int | None = None,
    inputs: Sequence[TensorSpec] = (),
    spill: Spill | None = None,
) -> onnx.ModelProto:
    """Return `module` as an ONNX graph of opset 19.

    It is in eval mode, takes float32 (batch, 3, height, width), of clips (batch, frames, 3, height,
    width), or what `inputs` say, and returns one or more tensors. The batch size is fixed to
    `batch`, or dynamic. The weights of a large graph go to `spill`, where they stay.
    """
    shape = ("batch", *(() if frames is None else (frames,)), 3, *image_size)
    given, count = inputs or (TensorSpec("x", "float32", shape),), batch or _TRACE_BATCH
    examples = tuple(  # on the CPU, whatever the user's defaults
        torch.from_numpy(np.zeros((count, *map(int, each.shape[1:])), each.dtype)) for each in given
    )
    size_of_batch = torch.export.Dim("batch", min=1)
    dynamic = None if batch else tuple({0: size_of_batch} for _ in given)
    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet(), _plain_attention():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                opset_version=19,
                input_names=[each.name for each in given],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the module raised
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        raise SpecError(
            f"{type(module).__name__} cannot be exported to ONNX, its forward does what the "
            f"exporter cannot follow: {type(cause).__name__}: "
            f"{' '.join(_COLOUR.sub('', str(cause)).split())[:300]}"
        ) from None
    assert program is not None
    _drop_idle_squeezes(program.model.graph)
    register_constants(program.model.graph)
    proto = to_proto(program.model, spill)
    # onnxscript's rules keep the graph that they saw last, and its inputs count what they were.
    graph = program.model.graph
    for value in (*graph.initializers.values(), *getattr(graph.inputs, "_ref_counter", ())):
        value.const_value = None
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if batch is None and size.HasField("dim_value"):  # the exporter's own, silent way out
        raise SpecError(
            f"{type(module).__name__} works at one batch size alone, its forward or a constant in "
            "it says which, as len(x) does in place of x.shape[0]. Add --static-batch N with that "
            "size"
        )
    return proto


def _drop_idle_squeezes(graph: ir.Graph) -> None:
    """Take off each Squeeze of an axis that is not 1, which torch lets pass and ONNX does not."""
    for node in list(graph):
        axes = node.inputs[1] if node.op_type == "Squeeze" and len(node.inputs) == 2 else None
        if axes is None or axes.const_value is None:
            continue
        sides = dims_of(data_input(node))
        if any(isinstance(sides[i], int) and sides[i] != 1 for i in array_of(axes).reshape(-1)):
            replace_value(node.outputs[0], data_input(node))
            graph.remove(node, safe=True)


def register_constants(graph: ir.Graph) -> None:
    """Make initializers of constants that the exporter's optimizer leaves without a producer."""
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() or value.is_graph_input():
                continue
            if value.const_value is not None and value.name not in graph.initializers:
                graph.register_initializer(value)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Write out attention over more than (batch, heads, tokens): the exporter knows no other."""
    fused = F.scaled_dot_product_attention

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        if query.ndim == 4 or is_causal or more:
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        return scores.softmax(-1) @ value

    F.scaled_dot_product_attention = attend  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's records off the console: torch, onnxscript and onnx_ir all log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
