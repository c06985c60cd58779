"""Boxes and class scores of foreign detectors, brought to shares of the input and to logits."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from edge_vit.errors import SpecError
from edge_vit.spec import Activation
from edge_vit.tasks.numerics import FloatArray

_MOST_SHARE = 4.0  # of the input that a box may be away or large: some models do not bound them
_FEWEST_QUERIES = 10  # of which every box may not be taken for corners by chance
_ENDS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Softmax": "softmax"}


def as_shares(
    address: str, model: ModelProto, name: str, boxes: FloatArray, image_size: tuple[int, int]
) -> tuple[str, ...]:
    """Let the output `name` of `model` be cx, cy, w, h as shares of the input.

    Corners and pixels are known by what came out once, `boxes` (batch, queries, 4), for an image
    of (height, width). Return a sentence about what was done, or nothing.

    Raises:
        SpecError: the numbers are no boxes of such an image.
    """
    far = float(np.abs(boxes).max(initial=0))
    height, width = image_size
    if far > _MOST_SHARE * max(image_size):
        raise SpecError(
            f"{address}: output {name!r}: got numbers from {boxes.min():.4g} to {boxes.max():.4g}, "
            f"expected boxes as shares of the input or in pixels of {height} x {width}"
        )
    is_pixels = far > _MOST_SHARE
    extent = boxes[..., 2:] - boxes[..., :2]  # of corners; 0 in boxes that are padding
    is_ordered = bool((extent >= 0).all() and (extent > 0).mean() > 0.5)
    is_corners = boxes.shape[1] >= _FEWEST_QUERIES and is_ordered
    if not is_pixels and not is_corners:
        return ()
    scale = np.array([width, height] * 2 if is_pixels else [1] * 4, np.float32)
    of_first = [0.5, 0.5, -1, -1] if is_corners else [1, 1, 0, 0]
    of_second = [0.5, 0.5, 1, 1] if is_corners else [0, 0, 1, 1]
    summands = []
    for part, columns, factors in (
        ("first", [0, 1, 0, 1], of_first),
        ("second", [2, 3, 2, 3], of_second),
    ):
        index, factor, gathered, product = (
            f"{name}/{part}/{each}" for each in ("columns", "factors", "gathered", "scaled")
        )
        given = {index: np.array(columns, np.int64), factor: np.array(factors, np.float32) / scale}
        model.graph.initializer.extend(
            numpy_helper.from_array(array, each) for each, array in given.items()
        )
        model.graph.node.append(helper.make_node("Gather", [name, index], [gathered], axis=2))
        model.graph.node.append(helper.make_node("Mul", [gathered, factor], [product]))
        summands.append(product)
    model.graph.node.append(helper.make_node("Add", summands, [f"{name}/shares"]))
    _output(model, name).name = f"{name}/shares"
    form = "corners" if is_corners else "centres and sizes"
    unit = f"pixels of {height} x {width}" if is_pixels else "shares of the input"
    return (f"its boxes are {form} in {unit}: turned to centres and sizes in shares, in the graph",)


def as_logits(
    address: str, model: ModelProto, name: str, scores: FloatArray
) -> tuple[Activation | None, tuple[str, ...]]:
    """Let the output `name` of `model`, which once gave `scores`, be logits.

    Return the activation that was taken off its end, if there was one, and a sentence about it.

    Raises:
        SpecError: these are probabilities, and no end that makes them is known.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    maker = makers.get(name)
    while maker is not None and maker.op_type == "Identity":
        maker = makers.get(maker.input[0])
    if maker is not None and maker.op_type in _ENDS and _over_classes(model, maker):
        _output(model, name).name = maker.input[0]
        activation = _ENDS[maker.op_type]
        return activation, (f"its class scores end in {maker.op_type}: taken off, as logits",)
    if scores.size and scores.min() >= 0 and scores.max() <= 1 and np.unique(scores).size > 1:
        raise SpecError(
            f"{address}: output {name!r}: got probabilities, from {scores.min():.3g} to "
            f"{scores.max():.3g}, expected logits. Export it without its sigmoid or softmax"
        )
    return None, ()


def _over_classes(model: ModelProto, node: NodeProto) -> bool:
    """Return whether a Sigmoid or Softmax is over the last of three axes."""
    axis = next((each.i for each in node.attribute if each.name == "axis"), None)
    if node.op_type == "Sigmoid" or axis in (-1, 2):
        return True
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return axis is None and opset >= 13


def _output(model: ModelProto, name: str) -> ValueInfoProto:
    found: ValueInfoProto = next(each for each in model.graph.output if each.name == name)
    return found
