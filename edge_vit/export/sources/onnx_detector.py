"""Detectors in ONNX files: class logits and boxes by name, or what a graph's own decoding ends in.

Known forms: logits (batch, queries, classes) beside boxes (batch, queries, 4), cx, cy, w, h from 0
to 1 (transformers' exports; RF-DETR's ``labels`` and ``dets``), and the exports of RT-DETR and
D-FINE with their post-processing, ``labels``, ``boxes`` and ``scores``, with or without the input
``orig_target_sizes``. There the graph is cut in front of the post-processing: at those values that
decode to what the graph itself gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from edge_vit.errors import SpecError
from edge_vit.graph.exact import open_graph
from edge_vit.graph.expose import expose, keep_needed
from edge_vit.spec import Activation
from edge_vit.tasks.numerics import Float64Array, FloatArray, IntArray, activate

OUTPUTS = ("logits", "boxes")

_PAIRS: tuple[tuple[str, str, Activation | None], ...] = (
    ("logits", "pred_boxes", None),
    ("logits", "boxes", None),
    ("pred_logits", "pred_boxes", None),
    ("labels", "dets", "sigmoid"),  # RF-DETR
)
_DECODED = ("labels", "boxes", "scores")

KNOWN = (
    "a detector's outputs are known as logits and pred_boxes (or boxes), labels and dets, or "
    "labels, boxes and scores"
)

_REACH = 60  # nodes in front of an output among which its post-processing begins
_TRIED_SIZE = (640, 480)  # of an image, width and height
_SAME = 1e-5  # of scores and, times the largest coordinate and ten, of boxes
_MOST_SHARE = 4.0  # of the input that a box may be away or large: some models do not bound them
_FEWEST_QUERIES = 10  # of which every box may not be taken for corners by chance
_MOST_TIES = 0.1  # share of boxes that may be in another order, their scores being equal


@dataclass(frozen=True)
class Detector:
    """A graph whose outputs are class logits (batch, queries, classes) and boxes (..., 4)."""

    model: ModelProto
    activation: Activation | None  # of the logits, where the graph tells
    remarks: tuple[str, ...] = ()  # what was done to the graph, a sentence each


def is_detector(model: ModelProto) -> bool:
    """Return whether the outputs' names are those of a detector."""
    return _named_pair(model) is not None or _is_decoded(model)


def take_sizes(model: ModelProto) -> tuple[ModelProto, ValueInfoProto | None]:
    """Return `model` without the input of the images' sizes, if its decoding takes one, and that.

    The nodes that read it stay: `as_detector` takes them off.
    """
    inputs = list(model.graph.input)
    if not _is_decoded(model) or len(inputs) != 2:
        return model, None
    sizes = [v for v in inputs if len(v.type.tensor_type.shape.dim) in (1, 2)]
    if len(sizes) != 1:
        return model, None
    model.graph.input.remove(sizes[0])
    return model, sizes[0]


def as_detector(
    address: str, model: ModelProto, sizes: ValueInfoProto | None, image_size: tuple[int, int]
) -> Detector:
    """Return the detector in `model`, of which `is_detector` is true.

    The image has the fixed size (height, width), but for the batch; `sizes` is the input that
    `take_sizes` took off.
    """
    pair = _named_pair(model)
    if pair is None:
        return _cut(address, model, sizes, image_size)
    *names, activation = pair
    given = {output.name: output for output in model.graph.output}
    left_out = [name for name in given if name not in names]
    kept = [given[str(name)] for name in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    remarks = (f"left out: {', '.join(left_out)}",) if left_out else ()
    model = keep_needed(model) if left_out else model
    _refuse_pixels(address, str(names[1]), run_once(model, None)[str(names[1])])
    return Detector(model, activation, remarks)


def _named_pair(model: ModelProto) -> tuple[str, str, Activation | None] | None:
    floats = {
        output.name
        for output in model.graph.output
        if output.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(output.type.tensor_type.shape.dim) in (0, 3)
    }
    return next((pair for pair in _PAIRS if floats.issuperset(pair[:2])), None)


def _is_decoded(model: ModelProto) -> bool:
    return {output.name for output in model.graph.output}.issuperset(_DECODED)


def _cut(
    address: str, model: ModelProto, sizes: ValueInfoProto | None, image_size: tuple[int, int]
) -> Detector:
    """Return the graph in front of its own decoding, found by running it once."""
    values = run_once(model, sizes, [n for o in ("scores", "boxes") for n in _nearest(model, o)])
    labels, boxes, scores = (np.asarray(values[name])[0] for name in _DECODED)
    order = np.argsort(-scores, kind="stable")
    decoded = scores[order].astype(np.float64), labels[order], boxes[order].astype(np.float64)
    for logits, activation, queries in _find_logits(model, values, decoded):
        for name in _nearest(model, "boxes"):
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


def _refuse_pixels(address: str, name: str, boxes: FloatArray) -> None:
    """Refuse boxes that are no shares of the input, which are 0 to 1 and seldom far outside."""
    low, high = float(boxes.min()), float(boxes.max())
    if low < -_MOST_SHARE or high > _MOST_SHARE:
        raise SpecError(
            f"{address}: output {name!r}: got numbers from {low:.4g} to {high:.4g}, expected boxes "
            "as cx, cy, w, h from 0 to 1, shares of the input"
        )
    if boxes.shape[1] >= _FEWEST_QUERIES and (boxes[..., 2:] > boxes[..., :2]).all():
        raise SpecError(
            f"{address}: output {name!r}: got corners (x1, y1, x2, y2), as each second pair is "
            "larger than the first, expected cx, cy, w, h from 0 to 1, shares of the input"
        )


def run_once(
    model: ModelProto, sizes: ValueInfoProto | None, names: Sequence[str] = ()
) -> Mapping[str, FloatArray]:
    """Return what the graph gives for a noisy image, and its values `names`."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
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
    model: ModelProto,
    values: Mapping[str, FloatArray],
    decoded: tuple[Float64Array, IntArray, Float64Array],
) -> Iterator[tuple[str, Activation, IntArray]]:
    """Yield each value whose best probabilities are the scores, and the queries that have them."""
    scores, labels, _ = decoded
    activations: tuple[Activation, ...] = ("sigmoid", "softmax")
    for name in _nearest(model, "scores"):
        value = np.asarray(values.get(name, ()))
        if value.ndim != 3 or value.dtype != np.float32:
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
