"""``onnx:FILE``: a classifier, feature extractor or detector that somebody else exported."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from edge_vit.errors import SpecError
from edge_vit.export.sources.choices import choosing_node, refuse_choice
from edge_vit.export.sources.gray import GRAY_REMARK, take_colour
from edge_vit.export.sources.onnx_detector import (
    KNOWN,
    OUTPUTS,
    Detector,
    as_detector,
    is_detector,
    take_sizes,
)
from edge_vit.export.sources.onnx_file import read_graph
from edge_vit.export.sources.quantized import refuse_quantized
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import OnnxSource, check_classes
from edge_vit.export.sources.widen import widen
from edge_vit.spec import PreprocessSpec, TensorSpec
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DETECTION, task_of_head

_WANTED = "expected one input, float32 (batch, 3, height, width) or uint8 (batch, height, width, 3)"

_log = logging.getLogger(__name__)


def open_onnx(request: SourceRequest) -> OnnxSource:
    """Return the graph in the file that `request` names, in float32, cut to its task's outputs.

    Raises:
        ArtifactError: the file is missing or damaged, or its weights lie elsewhere or are NaN.
        SpecError: the graph takes or returns something else than images and scores, or nobody says
            what it cannot: image size, mean and std.
    """
    said = {
        "--checkpoint": request.checkpoint,
        "--model-arg": request.model_args,
        "--random-weights": request.random_weights,
        "--weights-key": request.weights_key,
        "--checkpoint-size": request.checkpoint_size,
    }
    for option, value in said.items():
        if value:
            raise SpecError(f"{option}: {request.address} has its weights in it, leave it out")
    path = Path(request.target)
    model = read_graph(path)
    refuse_quantized(model, request.address)
    if num_widened := widen(model):
        _log.warning(
            "%s: %d weights are float16 or bfloat16; fp32 is made of them as they are, and that is "
            "what everything is compared with",
            request.address,
            num_widened,
        )
    remarks = (GRAY_REMARK,) if _takes_gray(model.graph) else ()
    if remarks:
        take_colour(model)
    model, sizes = take_sizes(model)
    image = _find_input(request, model.graph)
    is_contract = image.dtype == "uint8"
    preprocess = _find_preprocess(request, image, is_contract=is_contract)
    _fix_size(model, preprocess.image_size, is_contract=is_contract)
    if is_detector(model):
        detector = as_detector(request.address, model, sizes, preprocess.image_size)
        if request.crop_mode is None:  # a crop would lose objects: the whole image is squeezed in
            preprocess = replace(preprocess, crop_mode="squash", crop_pct=request.crop_pct or 1.0)
        return OnnxSource(
            model=detector.model,
            name=path.stem,
            address=request.address,
            task=DETECTION,
            preprocess=preprocess,
            input_name=image.name,
            output_name=detector.model.graph.output[0].name,
            is_contract=is_contract,
            remarks=(*remarks, *detector.remarks),
            outputs=OUTPUTS,
            **_settle_classes(request, detector),
        )
    output = _keep_one_output(request, model)
    task = task_of_head(request.num_classes)
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
        remarks=remarks,
    )


def _settle_classes(request: SourceRequest, detector: Detector) -> dict[str, Any]:
    """Return labels and activation: with softmax there is one column more than classes."""
    activation = request.activation or detector.activation
    width = _describe(detector.model.graph.output[0]).shape[-1]
    if not isinstance(width, int):
        return {"labels": request.labels, "activation": activation}
    if activation is None and request.classes in (width, width - 1):
        activation = "sigmoid" if request.classes == width else "softmax"
    classes = task_named(DETECTION).num_labels(width, activation)
    return {
        "labels": check_classes(request, DETECTION, classes),
        "activation": activation,
    }


def _takes_gray(graph: GraphProto) -> bool:
    """Say whether the only input is float32 (batch, 1, height, width)."""
    if len(graph.input) != 1:
        return False
    image = _describe(graph.input[0])
    return image.dtype == "float32" and len(image.shape) == 4 and image.shape[1] == 1


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
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name if kind.elem_type else "?"
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


def _keep_one_output(request: SourceRequest, model: ModelProto) -> TensorSpec:
    """Return the first output that is (N, classes or channels), and take the others off.

    Without one it is the first that is so but for dimensions of one, flattened.
    """
    graph = model.graph
    outputs = {spec.name: spec for spec in map(_describe, graph.output)}
    fitting = [spec for spec in outputs.values() if _is_flat(spec, graph)]
    if not fitting:
        fitting = [_flatten(spec, graph) for spec in outputs.values() if _may_flatten(spec, graph)]
    if not fitting:
        for name in outputs:
            refuse_choice(graph, request.address, name)
        got = ", ".join(f"{name!r} {spec}" for name, spec in outputs.items())
        raise SpecError(
            f"{request.address}: outputs: got {got}, expected float32 (batch, classes); {KNOWN}"
        )
    chosen = fitting[0]
    others = [value for value in graph.output if value.name != chosen.name]
    for value in others:
        graph.output.remove(value)
    if others:
        left_out = ", ".join(value.name for value in others)
        _log.warning("%s: output %s is used, left out: %s", request.address, chosen.name, left_out)
    return chosen


def _is_flat(spec: TensorSpec, graph: GraphProto) -> bool:
    is_scores = spec.dtype == "float32" and len(spec.shape) == 2
    return is_scores and choosing_node(graph, spec.name) is None


def _may_flatten(spec: TensorSpec, graph: GraphProto) -> bool:
    """Say whether an output is one score an image, (N,), or (N, classes, 1, 1)."""
    is_flat_inside = len(spec.shape) == 1 or (len(spec.shape) == 4 and spec.shape[2:] == (1, 1))
    return spec.dtype == "float32" and is_flat_inside and choosing_node(graph, spec.name) is None


def _flatten(spec: TensorSpec, graph: GraphProto) -> TensorSpec:
    """Put a Flatten behind an output of `graph`, in its place, and return its facts."""
    shape = (spec.shape[0], spec.shape[1] if len(spec.shape) > 1 else 1)
    flat = TensorSpec(f"{spec.name}/flat", spec.dtype, shape)
    graph.node.append(helper.make_node("Flatten", [spec.name], [flat.name], axis=1))
    place = [value.name for value in graph.output].index(spec.name)
    info = helper.make_tensor_value_info(flat.name, TensorProto.FLOAT, shape)
    graph.output[place].CopyFrom(info)
    return flat


def _refuse_unknown_width(request: SourceRequest, output: TensorSpec) -> int:
    raise SpecError(
        f"{request.address}: output {output.name!r} is {output}, which does not tell the number of "
        "classes. "
        "Add --num-classes N"
    )
