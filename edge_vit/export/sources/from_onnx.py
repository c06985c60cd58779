"""``onnx:FILE``: a model that another program exported: of classes, features, boxes or maps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edge_vit.errors import SpecError
from edge_vit.export.sources import onnx_detector, onnx_file
from edge_vit.export.sources.map_outputs import take_map, warn_left_out, whole_image
from edge_vit.export.sources.onnx_masks import OUTPUTS as QUERIES
from edge_vit.export.sources.onnx_masks import take_queries
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import (
    CHANNELS_REMARK,
    GRAY_REMARK,
    LUMINANCE,
    OnnxSource,
    check_classes,
)
from edge_vit.graph.exact import locations_of
from edge_vit.graph.expose import keep_needed
from edge_vit.graph.large import Spill
from edge_vit.graph.weightless import without_weights
from edge_vit.spec import Activation, ClipSpec, PreprocessSpec, TensorSpec
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DETECTION, task_of_head

_WANTED = (
    "expected one input, float32 (batch, 3, height, width) or uint8 (batch, height, width, 3), "
    "for clips with the frames behind the batch or, in float32, behind the channels"
)
_LAST = "the model takes the channels of an image last: swapped in the graph"
_FIRST = "the model takes the channels of an image first: swapped in the graph"
_ORDERS = (
    # type, number of axes, where the channels are and should be, the order back, a remark
    ("float32", 5, 1, 2, (0, 2, 1, 3, 4), CHANNELS_REMARK),
    ("float32", 4, 3, 1, (0, 2, 3, 1), _LAST),
    ("uint8", 4, 1, 3, (0, 3, 1, 2), _FIRST),
)
_CHOOSES = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression"})
_PASSED = frozenset(
    {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
    | {"Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid"}
)

_log = logging.getLogger(__name__)


def open_onnx(request: SourceRequest) -> OnnxSource:
    """Return the graph in the file that `request` names, in float32, cut to its task's outputs."""
    given = ("checkpoint", "model_args", "random_weights", "weights_key", "checkpoint_size")
    request.refuse_options("has its weights in it", *given)
    path = Path(request.target)
    model = onnx_file.read_graph(path)
    onnx_file.refuse_quantized(model, request.address)
    onnx_file.refuse_foreign(model, request.address)
    spill = Spill(0 if any(locations_of(model)) else None)
    model, remark = onnx_file.to_float32(model, spill)
    if remark:
        _log.warning("%s: %s", request.address, remark)
    if request.output_name is not None:
        kept = request.only({output.name: output for output in model.graph.output})
        for other in [each for each in model.graph.output if each.name not in kept]:
            model.graph.output.remove(other)
        model = keep_needed(model)
    request, own = _take_own_normalisation(request, model.graph)
    is_gray = _takes_gray(model.graph)
    if is_gray:
        _take_colour(model)
    model, size_input = onnx_detector.take_sizes(model)
    remarks = own + ((GRAY_REMARK,) if is_gray else ()) + _order_axes(model)
    image = _find_input(request, model.graph)
    is_contract = image.dtype == "uint8"
    preprocess = _find_preprocess(request, image, is_contract=is_contract)
    sizes: tuple[int, ...] = preprocess.image_size
    sizes = (*sizes, 3) if is_contract else (3, *sizes)
    if preprocess.clip is not None:
        sizes = (preprocess.clip.frames, *sizes)
        remarks += (f"of a video it reads {preprocess.clip}",)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(list(dims)[1:], sizes, strict=True):  # the exporter may leave them open
        dim.dim_value = size
    del model.graph.value_info[:]
    activation: Activation | None = None
    outputs: tuple[str, ...] = ()
    queries = take_queries(request, model)
    if queries is not None:
        preprocess = whole_image(request, preprocess)  # a crop would lose objects
        task, model, outputs = queries.task, queries.model, QUERIES
        labels, activation = check_classes(request, task, queries.num_classes), queries.activation
        remarks += queries.remarks
    elif onnx_detector.is_detector(model, request.task):
        detector = onnx_detector.as_detector(request, model, size_input, preprocess.image_size)
        preprocess = whole_image(request, preprocess)
        task, model, outputs = DETECTION, detector.model, onnx_detector.OUTPUTS
        labels, activation = _settle_classes(request, detector)
        remarks += detector.remarks
    elif (found := take_map(request, model, preprocess.image_size)) is not None:
        model, output_map = found
        task, outputs = output_map.task, (output_map.name,)
        preprocess = whole_image(request, preprocess)
        labels = check_classes(request, task, output_map.num_channels)
    else:
        output = _keep_one_output(request, model)
        task, columns = task_of_head(request.num_classes), output.shape[1]
        width = columns if isinstance(columns, int) else request.classes
        if not width:
            raise SpecError(
                f"{request.address}: output {output.name!r} is {output}, which does not tell the "
                "number of classes. Add --num-classes N"
            )
        labels = check_classes(request, task, width)
    return OnnxSource(
        model=model,
        name=path.stem,
        address=request.address,
        task=task,
        labels=labels,
        preprocess=preprocess,
        input_name=image.name,
        is_contract=is_contract,
        remarks=remarks,
        outputs=outputs,
        activation=activation,
        spill=spill,
    )


def _settle_classes(
    request: SourceRequest, detector: onnx_detector.Detector
) -> tuple[tuple[str, ...], Activation | None]:
    """Return labels and activation: with softmax there is one column more than classes."""
    activation = request.activation or detector.activation
    width = _describe(detector.model.graph.output[0]).shape[-1]
    if not isinstance(width, int):
        return request.labels, activation
    if activation is None and request.classes in (width, width - 1):
        activation = "sigmoid" if request.classes == width else "softmax"
    classes = task_named(DETECTION).num_labels(width, activation)
    return check_classes(request, DETECTION, classes), activation


def _take_own_normalisation(
    request: SourceRequest, graph: GraphProto
) -> tuple[SourceRequest, tuple[str, ...]]:
    """Return the request of a file that normalises its images itself, and a remark on that.

    It is done once then. Another mean or std is refused, or, in doubt of the file's, applied too.
    """
    if not graph.input or _describe(graph.input[0]).dtype != "float32":
        return request, ()
    mean, std = onnx_file.own_normalisation(graph)
    most, is_certain = onnx_file.largest_value(mean, std)
    if not most:
        return request, ()
    wanted = {"mean": (0.0, 0.0, 0.0), "std": (1 / most, 1 / most, 1 / most)}
    own = f"by mean {_listed(mean)} and std {_listed(std)} of values from 0 to {most:g}"
    for name, value in wanted.items():
        given = getattr(request, name)
        if given is not None and not np.allclose(given, value, 1e-3, 1e-6):
            got = f"{name}: got {_listed(given)}, but {request.address} normalises its images "
            if not is_certain:
                return request, (f"{got}itself as it seems, {own}: both are applied",)
            raise SpecError(
                f"{got}itself, {own}: both would be applied. Leave --mean and --std out, or take "
                f"--mean {_listed(wanted['mean'])} --std {_listed(wanted['std'])}"
            )
    request = dataclasses.replace(request, mean=wanted["mean"], std=wanted["std"])
    return request, (f"it normalises its images itself, {own}",)


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.6g}" for value in values)


def _takes_gray(graph: GraphProto) -> bool:
    """Return whether the only input is float32 (batch, 1, height, width)."""
    if len(graph.input) != 1:
        return False
    image = _describe(graph.input[0])
    return image.dtype == "float32" and len(image.shape) == 4 and image.shape[1] == 1


def _take_colour(model: ModelProto) -> None:
    """Let a graph of one input (batch, 1, height, width) take (batch, 3, height, width)."""
    graph = model.graph
    image = graph.input[0]
    gray, scaled, weights, axis = (f"{image.name}/{part}" for part in ("gray", "by", "rgb", "axis"))
    for node in graph.node:
        node.input[:] = [gray if name == image.name else name for name in node.input]
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    shares = np.array(LUMINANCE, np.float32).reshape(1, 3, 1, 1)
    graph.initializer.append(numpy_helper.from_array(shares, weights))
    if opset < 13:  # before, the axes of ReduceSum were an attribute
        reduce = helper.make_node("ReduceSum", [scaled], [gray], axes=[1], keepdims=1)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axis))
        reduce = helper.make_node("ReduceSum", [scaled, axis], [gray], keepdims=1)
    graph.node.insert(0, helper.make_node("Mul", [image.name, weights], [scaled]))
    graph.node.insert(1, reduce)
    image.type.tensor_type.shape.dim[1].dim_value = 3
    onnx.checker.check_model(without_weights(model))


def _order_axes(model: ModelProto) -> tuple[str, ...]:
    """Let a graph of one input take its axes in edge-vit's order, where it is in another one.

    That is float32 (batch, 3, height, width), of clips (batch, frames, 3, ...), or uint8 with the
    channels last. Return a sentence about it, or nothing.
    """
    graph = model.graph
    if len(graph.input) != 1:
        return ()
    image = _describe(graph.input[0])
    orders = (each for each in _ORDERS if each[:2] == (image.dtype, len(image.shape)))
    _, rank, given, ours, order, remark = next(orders, ("", 0, 0, 0, (), ""))
    # Where both are 3, which is which cannot be seen.
    if not rank or image.shape[given] != 3 or image.shape[ours] == 3:
        return ()
    swapped = f"{image.name}/as_exported"
    for node in graph.node:
        node.input[:] = [swapped if name == image.name else name for name in node.input]
    graph.node.insert(0, helper.make_node("Transpose", [image.name], [swapped], perm=order))
    shape = [image.shape[order.index(axis)] for axis in range(rank)]
    kind = graph.input[0].type.tensor_type.elem_type
    graph.input[0].CopyFrom(helper.make_tensor_value_info(image.name, kind, shape))
    return (remark,)


def _find_input(request: SourceRequest, graph: GraphProto) -> TensorSpec:
    """Return the graph's only input: normalised float32 (N, 3, H, W) or uint8 (N, H, W, 3).

    Of clips the frames come second.
    """
    inputs = [_describe(value) for value in graph.input]
    if len(inputs) != 1:
        found = ", ".join(f"{spec.name}: {spec}" for spec in inputs) or "none"
        raise SpecError(
            f"{request.address} has {len(inputs)} inputs ({found}), {_WANTED}. Write the values of "
            "another input into the file, as an initializer of its name"
        )
    image = inputs[0]
    axis = {"float32": -3, "uint8": -1}.get(image.dtype)
    channels = image.shape[axis] if axis is not None and len(image.shape) in (4, 5) else 0
    if channels != 3 and not isinstance(channels, str):  # a name: left open by the exporter
        raise SpecError(f"{request.address}: input {image.name!r}: got {image}, {_WANTED}")
    return image


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
    height, width = image.shape[-3:-1] if is_contract else image.shape[-2:]
    frames = image.shape[1] if len(image.shape) == 5 else None
    if isinstance(frames, str):
        frames = request.frames
        if frames is None:
            raise SpecError(
                f"{request.address}: input {image.name!r} is {image}, which does not tell how many "
                "frames a clip has. Add --frames N"
            )
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    if fixed and request.image_size not in (None, fixed):
        raise SpecError(
            f"image_size: got {request.image_size}, but {request.address} is made for {fixed}"
        )
    size = request.image_size or fixed
    if is_contract and size:
        request.refuse_options("takes pixels and normalises them by itself", "mean", "std")
        clip = ClipSpec(frames) if frames is not None else None
        halves = PreprocessSpec(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), clip=clip)
        return request.refine(halves)
    return request.whole_preprocess(fixed, frames)


def _keep_one_output(request: SourceRequest, model: ModelProto) -> TensorSpec:
    """Return the first output that is (N, classes or channels), and take the others off.

    Without one it is the first that is so but for dimensions of one, flattened.
    """
    graph = model.graph
    outputs = {spec.name: spec for spec in map(_describe, graph.output)}
    scores = [
        spec
        for spec in outputs.values()
        if spec.dtype == "float32" and choosing_node(graph, spec.name) is None
    ]
    chosen = next((spec for spec in scores if len(spec.shape) == 2), None)
    if chosen is None:
        flat = (s for s in scores if len(s.shape) == 1 or s.shape[2:] == (1, 1))
        narrow = next(flat, None)
        if narrow is None:
            for name in outputs:
                refuse_choice(graph, request.address, name)
            got = ", ".join(f"{name!r} {spec}" for name, spec in outputs.items())
            raise SpecError(
                f"{request.address}: outputs: got {got}, expected float32 (batch, classes); "
                f"{onnx_detector.KNOWN}"
            )
        chosen = _flatten(narrow, graph)
    others = [value for value in graph.output if value.name != chosen.name]
    for value in others:
        graph.output.remove(value)
    warn_left_out(request, chosen.name, [value.name for value in others])
    return chosen


def _flatten(spec: TensorSpec, graph: GraphProto) -> TensorSpec:
    """Put a Flatten behind an output of `graph`, in its place, and return its facts."""
    shape = (spec.shape[0], spec.shape[1] if len(spec.shape) > 1 else 1)
    flat = TensorSpec(f"{spec.name}/flat", spec.dtype, shape)
    graph.node.append(helper.make_node("Flatten", [spec.name], [flat.name], axis=1))
    place = [value.name for value in graph.output].index(spec.name)
    info = helper.make_tensor_value_info(flat.name, TensorProto.FLOAT, shape)
    graph.output[place].CopyFrom(info)
    return flat


def choosing_node(graph: GraphProto, output: str) -> str | None:
    """Return the operator that picked or sorted `output`, such as ``TopK``; None without one.

    Only casts, reshapes, scales and activations may lie behind it: deep inside a model, choosing is
    part of what it computes.
    """
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _PASSED:
        node = makers.get(node.input[0])
    return node.op_type if node is not None and node.op_type in _CHOOSES else None


def refuse_choice(graph: GraphProto, address: str, output: str) -> None:
    """Refuse an `output` that is chosen among the scores of all classes."""
    operator = choosing_node(graph, output)
    if operator is not None:
        raise SpecError(
            f"{address}: output {output!r} comes from {operator}, so its columns are no classes, "
            "expected the scores of all classes. Leave that out of the model"
        )
