"""Models of one channel: gray is made of R, G and B in front of them, inside the graph."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

LUMINANCE = (0.299, 0.587, 0.114)
"""Share of R, G and B in gray (ITU-R BT.601), as Pillow and torchvision take them."""

GRAY_REMARK = (
    "the model takes 1 channel: images are turned to gray in the graph "
    "(0.299 R + 0.587 G + 0.114 B)"
)


class GrayImages(nn.Module):
    """A model of one channel that takes normalised (batch, 3, height, width).

    With the same mean and std for all three, gray of normalised colours is normalised gray.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.luminance: Tensor
        self.register_buffer(
            "luminance",
            torch.tensor(LUMINANCE, dtype=torch.float32, device="cpu").reshape(1, 3, 1, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return what the model gives for the gray of `images`."""
        output: Tensor = self.model((images * self.luminance).sum(1, keepdim=True))
        return output


def num_channels(module: nn.Module) -> int | None:
    """Return how many channels the first convolution of `module` takes; None without one."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return int(layer.in_channels)
    return None


def takes_gray(module: nn.Module, image_size: tuple[int, int]) -> bool:
    """Say whether `module` runs on one channel and not on three."""
    if num_channels(module) not in (None, 1):
        return False
    return not _runs(module, 3, image_size) and _runs(module, 1, image_size)


def _runs(module: nn.Module, channels: int, image_size: tuple[int, int]) -> bool:
    try:
        with torch.no_grad():
            module(torch.zeros(1, channels, *image_size, dtype=torch.float32, device="cpu"))
    except (Exception, SystemExit):  # somebody else's forward can raise anything
        return False
    return True


def take_colour(model: ModelProto) -> None:
    """Let a graph of one input (batch, 1, height, width) take (batch, 3, height, width)."""
    graph = model.graph
    image = graph.input[0]
    gray, scaled, weights, axis = (f"{image.name}/{part}" for part in ("gray", "by", "rgb", "axis"))
    for node in graph.node:
        node.input[:] = [gray if name == image.name else name for name in node.input]
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    graph.initializer.append(
        numpy_helper.from_array(np.array(LUMINANCE, np.float32).reshape(1, 3, 1, 1), weights)
    )
    if opset < 13:  # before, the axes of ReduceSum were an attribute
        reduce = helper.make_node("ReduceSum", [scaled], [gray], axes=[1], keepdims=1)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axis))
        reduce = helper.make_node("ReduceSum", [scaled, axis], [gray], keepdims=1)
    graph.node.insert(0, helper.make_node("Mul", [image.name, weights], [scaled]))
    graph.node.insert(1, reduce)
    image.type.tensor_type.shape.dim[1].dim_value = 3
    onnx.checker.check_model(model)
