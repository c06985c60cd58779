"""``onnx:FILE``: a classifier or feature extractor that somebody else exported."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, ValueInfoProto

from edge_vit.errors import SpecError
from edge_vit.export.sources.onnx_file import read_graph
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import OnnxSource, check_classes
from edge_vit.spec import PreprocessSpec, Task, TensorSpec

_WANTED = "expected one input, float32 (batch, 3, height, width) or uint8 (batch, height, width, 3)"

_log = logging.getLogger(__name__)


def open_onnx(request: SourceRequest) -> OnnxSource:
    """Return the graph in the file that `request` names, cut to its first output.

    Raises:
        ArtifactError: the file is missing or damaged, or its weights lie elsewhere or are NaN.
        SpecError: the graph takes or returns something else than images and scores, or nobody says
            what it cannot: image size, mean and std.
    """
    said = {
        "--checkpoint": request.checkpoint,
        "--model-arg": request.model_args,
        "--random-weights": request.random_weights,
    }
    for option, value in said.items():
        if value:
            raise SpecError(f"{option}: {request.address} has its weights in it, leave it out")
    path = Path(request.target)
    model = read_graph(path)
    image = _find_input(request, model.graph)
    is_contract = image.dtype == "uint8"
    preprocess = _find_preprocess(request, image, is_contract=is_contract)
    _fix_size(model, preprocess.image_size, is_contract=is_contract)
    output = _keep_first_output(request, model)
    task: Task = "features" if request.num_classes == 0 else "classification"
    width = output.shape[1]
    if not isinstance(width, int):
        width = request.classes or _refuse_unknown_width(request, output)
    return OnnxSource(
        model=model,
        name=path.stem,
        address=request.address,
        task=task,
        labels=check_classes(request, task, width),
        preprocess=preprocess,
        input_name=image.name,
        output_name=output.name,
        is_contract=is_contract,
    )


def _find_input(request: SourceRequest, graph: GraphProto) -> TensorSpec:
    """Return the graph's only input: normalised float32 (N, 3, H, W) or uint8 (N, H, W, 3)."""
    inputs = [_describe(value) for value in graph.input]
    if len(inputs) != 1:
        found = ", ".join(f"{spec.name}: {spec}" for spec in inputs) or "none"
        raise SpecError(f"{request.address} has {len(inputs)} inputs ({found}), {_WANTED}")
    image = inputs[0]
    channel_axis = {"float32": 1, "uint8": 3}.get(image.dtype)
    if channel_axis is None or len(image.shape) != 4 or not _may_be(3, image.shape[channel_axis]):
        raise SpecError(f"{request.address}: input {image.name!r}: got {image}, {_WANTED}")
    return image


def _may_be(size: int, dimension: int | str) -> bool:
    """Say whether a dimension is `size`, or left open by the exporter."""
    return dimension == size or isinstance(dimension, str)


def _fix_size(model: ModelProto, image_size: tuple[int, int], *, is_contract: bool) -> None:
    """Write channels, height and width into the input's shape where the exporter left them open."""
    sizes = (*image_size, 3) if is_contract else (3, *image_size)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(list(dims)[1:], sizes, strict=True):
        dim.dim_value = size
    del model.graph.value_info[:]


def _describe(value: ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "?"
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in kind.shape.dim
    )
    return TensorSpec(value.name, dtype, shape)


def _find_preprocess(
    request: SourceRequest, image: TensorSpec, *, is_contract: bool
) -> PreprocessSpec:
    axes = (1, 2) if is_contract else (2, 3)
    height, width = (image.shape[axis] for axis in axes)
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    if fixed and request.image_size not in (None, fixed):
        raise SpecError(
            f"image_size: got {request.image_size}, but {request.address} is made for {fixed}"
        )
    if is_contract and (request.image_size or fixed):
        # The graph normalises by itself: to everything outside of it, nothing is left to do.
        identity = PreprocessSpec(
            request.image_size or fixed or (1, 1), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        )
        return request.refine(identity)
    return request.whole_preprocess(fixed)


def _keep_first_output(request: SourceRequest, model: ModelProto) -> TensorSpec:
    """Return the first output, (N, classes) or (N, channels), and take the others off the graph."""
    outputs = [_describe(value) for value in model.graph.output]
    first = outputs[0]
    if len(outputs) > 1:
        others = ", ".join(spec.name for spec in outputs[1:])
        _log.warning("%s: output %s is used, left out: %s", request.address, first.name, others)
        del model.graph.output[1:]
    if first.dtype != "float32" or len(first.shape) != 2:
        raise SpecError(
            f"{request.address}: output {first.name!r}: got {first}, expected float32 (batch, "
            "classes)"
        )
    return first


def _refuse_unknown_width(request: SourceRequest, output: TensorSpec) -> int:
    raise SpecError(
        f"{request.address}: output {output.name!r} is {output}, which does not tell the number of "
        "classes. "
        "Add --num-classes N"
    )
