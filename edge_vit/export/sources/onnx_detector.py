"""Detectors in ONNX files: class scores and boxes, or what a graph's own decoding ends in.

Known forms: scores (batch, queries, classes) beside boxes (batch, queries, 4), by their names
(transformers' exports; RF-DETR's ``labels`` and ``dets``) or by their shapes, and the exports with
their post-processing: labels, boxes and scores of the best queries (RT-DETR, D-FINE), or ``dets``
of five columns beside ``labels``, with or without the input ``orig_target_sizes``. There the graph
is cut in front of the post-processing: at those values that decode to what the graph itself gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edge_vit.errors import SpecError
from edge_vit.export.sources.onnx_boxes import as_logits, as_shares
from edge_vit.export.sources.request import SourceRequest
from edge_vit.graph.exact import open_graph
from edge_vit.graph.expose import expose, keep_needed
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks.declared import DETECTION
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray, activate

OUTPUTS = ("logits", "boxes")

_PAIRS: tuple[tuple[str, str, Activation | None], ...] = (
    ("logits", "pred_boxes", None),
    ("logits", "boxes", None),
    ("pred_logits", "pred_boxes", None),
    ("labels", "dets", "sigmoid"),  # RF-DETR
)
_ROLES = (("label", "class"), ("box",), ("score", "conf"))
"""Words in the names of labels, boxes and scores that were decoded."""

KNOWN = (
    "a detector's outputs are known as logits and pred_boxes (or boxes), labels and dets, or "
    "labels, boxes and scores; for (batch, queries, classes) beside (batch, queries, 4) by other "
    "names add --task detection"
)

_REACH = 60  # nodes in front of an output among which its post-processing begins
_TRIED_SIZE = (640, 480)  # of an image, width and height
_SAME = 1e-5  # of scores and, times the largest coordinate and ten, of boxes
_MOST_TIES = 0.1  # share of boxes that may be in another order, their scores being equal


@dataclass(frozen=True)
class Detector:
    """A graph whose outputs are class logits (batch, queries, classes) and boxes (..., 4)."""

    model: ModelProto
    activation: Activation | None  # of the logits, where the graph tells
    remarks: tuple[str, ...] = ()  # what was done to the graph, a sentence each


def is_detector(model: ModelProto, task: TaskName | None) -> bool:
    """Return whether the outputs are those of a detector, or can be those of the `task` wanted."""
    return _named_pair(model, task) is not None or _decoded_names(model) is not None


def take_sizes(model: ModelProto) -> tuple[ModelProto, ValueInfoProto | None]:
    """Return `model` without the input of the images' sizes, if its decoding takes one, and that.

    The nodes that read it stay: `as_detector` takes them off.
    """
    inputs = list(model.graph.input)
    if _decoded_names(model) is None or len(inputs) != 2:
        return model, None
    sizes = [v for v in inputs if len(v.type.tensor_type.shape.dim) in (1, 2)]
    if len(sizes) != 1:
        return model, None
    model.graph.input.remove(sizes[0])
    return model, sizes[0]


def as_detector(
    request: SourceRequest,
    model: ModelProto,
    sizes: ValueInfoProto | None,
    image_size: tuple[int, int],
) -> Detector:
    """Return the detector in `model`, of which `is_detector` is true.

    The image has the fixed size (height, width), but for the batch; `sizes` is the input that
    `take_sizes` took off.
    """
    address = request.address
    pair = _named_pair(model, request.task)
    if pair is None:
        return _cut(address, model, sizes, image_size)
    logits, boxes, activation = pair
    given = {output.name: output for output in model.graph.output}
    left_out = [name for name in given if name not in (logits, boxes)]
    kept = [given[logits], given[boxes]]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    values = run_once(model, None)
    own, taken = as_logits(address, model, logits, values[logits])
    remarks: tuple[str, ...] = (f"left out: {', '.join(left_out)}",) if left_out else ()
    remarks += taken + as_shares(address, model, boxes, values[boxes], image_size)
    return Detector(keep_needed(model) if left_out or own else model, own or activation, remarks)


def _named_pair(
    model: ModelProto, task: TaskName | None
) -> tuple[str, str, Activation | None] | None:
    """Return the outputs of class scores and of boxes, by their names or else by their shapes."""
    floats = {
        output.name: [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        for output in model.graph.output
        if output.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(output.type.tensor_type.shape.dim) in (0, 3)
    }
    known = next((pair for pair in _PAIRS if floats.keys() >= set(pair[:2])), None)
    if known is not None:
        return known
    fours = [name for name, dims in floats.items() if dims[2:] == [4]]
    boxes = [name for name in fours if "box" in name.lower()] or (
        fours if task == DETECTION else []
    )
    if len(boxes) != 1:
        return None
    queries = floats[boxes[0]][1]
    others = [
        name
        for name, dims in floats.items()
        if name != boxes[0] and dims and (dims[1] == queries or not dims[1] or not queries)
    ]
    return (others[0], boxes[0], None) if len(others) == 1 else None


def _decoded_names(model: ModelProto) -> tuple[str, str, str] | None:
    """Return the outputs of labels, of boxes and of scores; the latter two may be one, ``dets``."""
    ranks = {o.name: len(o.type.tensor_type.shape.dim) for o in model.graph.output}
    if ranks.keys() >= {"dets", "labels"}:
        return "labels", "dets", "dets"
    found = []
    for words in _ROLES:
        named = [name for name in ranks if any(word in name.lower() for word in words)]
        if len(named) != 1:
            return None
        found += named
    labels, boxes, scores = found
    is_best = len({*found}) == 3 and ranks[scores] != 3 and ranks[labels] != 3
    return (labels, boxes, scores) if is_best else None


def _cut(
    address: str, model: ModelProto, sizes: ValueInfoProto | None, image_size: tuple[int, int]
) -> Detector:
    """Return the graph in front of its own decoding, found by running it once."""
    names = _decoded_names(model)
    assert names is not None
    near = {name: _nearest(model, name) for name in names[1:]}
    values = run_once(model, sizes, [name for found in near.values() for name in found])
    labels, boxes, scores = (np.asarray(values[name]) for name in names)
    if names[1] == names[2] and boxes.ndim == 3 and boxes.shape[2] == 5:
        boxes, scores = boxes[..., :4], boxes[..., 4]
    whole = boxes.ndim == 3 and boxes.shape[2] == 4 and scores.shape == labels.shape
    if whole and scores.shape == boxes.shape[:2] and scores.size:
        order = np.argsort(-scores[0], kind="stable")
        best = scores[0][order].astype(np.float64)
        decoded = best, labels[0][order], boxes[0][order].astype(np.float64)
        for logits, activation, queries in _find_logits(values, decoded, near[names[2]]):
            for name in near[names[1]]:
                found = np.asarray(values.get(name, ()))
                if found.ndim == 3 and found.shape[1:] == (values[logits].shape[1], 4):
                    scales = (_TRIED_SIZE, _TRIED_SIZE[::-1], image_size[::-1], (1, 1))
                    if any(_same_boxes(found[0][queries], decoded[2], scale) for scale in scales):
                        return _end_at(model, {logits: values[logits], name: found}, activation)
    raise SpecError(
        f"{address}: its labels, boxes and scores are not the best of logits (batch, queries, "
        "classes) and boxes (batch, queries, 4), such as after non-maximum suppression. Export it "
        "without its post-processing"
    )


def run_once(
    model: ModelProto, sizes: ValueInfoProto | None, names: Sequence[str] = ()
) -> Mapping[str, FloatArray]:
    """Return what the graph gives for a noisy image, and its values `names`."""
    whole = copy.deepcopy(model)
    image = whole.graph.input[0].type.tensor_type
    batch, *rest = [dim.dim_value for dim in image.shape.dim]
    random = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(image.elem_type)
    scale = 255 if dtype == np.uint8 else 1
    feed = {model.graph.input[0].name: (random.random((batch or 1, *rest)) * scale).astype(dtype)}
    if sizes is not None:
        whole.graph.input.append(sizes)
        of_sizes = sizes.type.tensor_type
        size = np.array(_TRIED_SIZE, helper.tensor_dtype_to_np_dtype(of_sizes.elem_type))
        feed[sizes.name] = np.tile(size, (batch or 1, 1)) if len(of_sizes.shape.dim) == 2 else size
    shown = expose(whole, names)
    session = open_graph(shown, as_written=True)
    wanted = [output.name for output in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, feed), strict=True))


def _nearest(model: ModelProto, output: str) -> list[str]:
    """Return the values that `output` is made from, those nearest to it first."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found, todo = dict.fromkeys([output]), [output]
    while todo and len(found) < _REACH:
        maker = makers.get(todo.pop(0))
        for name in maker.input if maker is not None else ():
            if name in makers and name not in found:
                found[name] = None
                todo.append(name)
    return list(found)


def _find_logits(
    values: Mapping[str, FloatArray],
    decoded: tuple[Float64Array, IntArray, Float64Array],
    near: Sequence[str],
) -> Iterator[tuple[str, Activation, IntArray]]:
    """Yield each value whose best probabilities are the scores, and the queries that have them."""
    scores, labels, _ = decoded
    activations: tuple[Activation, ...] = ("sigmoid", "softmax")
    for name in near:
        value = np.asarray(values.get(name, ()))
        if value.ndim != 3 or value.dtype != np.float32 or value.shape[2] < 2:
            continue
        for activation in activations:
            shares = activate(activation, value[0])
            if activation == "softmax":
                shares = shares[:, :-1]
                classes, queries = shares.argmax(1), np.arange(len(shares))
                best = shares.max(1)
            else:
                queries, classes = np.divmod(np.arange(shares.size), shares.shape[1])
                best = shares.reshape(-1)
            order = np.argsort(-best, kind="stable")[: len(scores)]
            if len(order) < len(scores) or np.abs(best[order] - scores).max() > _SAME:
                continue
            if np.mean(classes[order] != labels) <= _MOST_TIES:
                yield name, activation, queries[order]


def _same_boxes(found: FloatArray, wanted: Float64Array, scale: tuple[int, int]) -> bool:
    middle, size = np.split(found.astype(np.float64), 2, axis=-1)
    corners = np.concatenate([middle - size / 2, middle + size / 2], axis=-1) * (scale * 2)
    off = np.abs(corners - wanted).max(axis=1) > 10 * _SAME * max(scale)
    return bool(np.mean(off) <= _MOST_TIES)


def _end_at(model: ModelProto, ends: Mapping[str, FloatArray], activation: Activation) -> Detector:
    """Return `model` with the values `ends` as its outputs, and nothing behind them."""
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch = first.dim_value or first.dim_param or "batch"
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *value.shape[1:]])
        for name, value in ends.items()
    )
    remark = f"the graph's own decoding is left out, it ends at {' and '.join(ends)}"
    return Detector(keep_needed(model), activation, (remark,))
