"""torch module -> ONNX, as the exporter writes it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch

from edge_vit.errors import SpecError

_TRACE_BATCH = 2  # with 1, exporters write the batch size into the graph


def trace_module(
    module: torch.nn.Module, image_size: tuple[int, int], batch: int | None = None
) -> onnx.ModelProto:
    """Return `module` as an ONNX graph of opset 19.

    Args:
        module: in eval mode; takes float32 (batch, 3, height, width), returns one tensor.
        image_size: (height, width).
        batch: a batch size to fix, or None for a dynamic one.

    Raises:
        SpecError: the exporter cannot follow the module, or only at one batch size.
    """
    images = torch.zeros(batch or _TRACE_BATCH, 3, *image_size)
    dynamic = None if batch else ({0: torch.export.Dim("batch", min=1)},)
    try:
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                opset_version=19,
                input_names=["x"],
                dynamic_shapes=dynamic,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the module raised
        line = next((s for s in str(error).splitlines() if s.strip()), type(error).__name__)
        cause = error.__cause__ or error.__context__ or error
        raise SpecError(
            f"{type(module).__name__} cannot be exported to ONNX: {line.strip()[:200]} "
            f"({type(cause).__name__}: {' '.join(str(cause).split())[:200]})"
        ) from None
    assert program is not None
    proto = program.model_proto
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if batch is None and size.HasField("dim_value"):  # the exporter's own, silent way out
        raise SpecError(
            f"{type(module).__name__} works at one batch size alone, its forward or a constant in "
            "it says which. Add --static-batch N with that size"
        )
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk off the user's terminal: torch, onnxscript and onnx_ir all log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    said = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
