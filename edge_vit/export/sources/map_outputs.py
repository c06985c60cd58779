"""Models whose output is a map, known by its shape: that of the image, or a grid over it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.onnx_detector import run_once
from edge_vit.export.sources.request import SourceRequest
from edge_vit.graph.expose import keep_needed
from edge_vit.spec import PreprocessSpec, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DENSE

_MOST_SCALE = 4  # cells for each pixel of the input, along one side

_log = logging.getLogger(__name__)

K = TypeVar("K")


@dataclass(frozen=True)
class MapOutput:
    """The output that holds a map."""

    task: TaskName  # what it is
    name: str  # of the exported graph's output
    num_channels: int


def is_map(shape: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Return whether an output of `shape`, batch first, is a grid over an image.

    Its sides, the last two of three or four, are as those of the image, to a cell of either.
    """
    if len(shape) not in (3, 4):
        return False
    (rows, columns), (height, width) = shape[-2:], image_size
    fits = abs(rows * width - columns * height) < max(height, width)
    return fits and max(rows, columns) > 1 and rows <= _MOST_SCALE * height


def choose_map(
    request: SourceRequest, shapes: Mapping[K, tuple[int, ...]], image_size: tuple[int, int]
) -> K | None:
    """Return which of the outputs, floats of `shapes`, is the map that is wanted, if any.

    Where a task of maps was stated it is the first one. Else there has to be none that may be
    classes or features, (batch, N).
    """
    maps = [key for key, shape in shapes.items() if is_map(shape, image_size)]
    if _wants_map(request):
        if not maps:
            got = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
            raise SpecError(
                f"--task {request.task}: {request.address} gives {got}, expected a map (batch, "
                f"height, width) or (batch, channels, height, width) with sides like those of the "
                f"image, {image_size[0]} x {image_size[1]}"
            )
        return maps[0]
    has_rows = any(len(shape) < 3 or set(shape[2:]) == {1} for shape in shapes.values())
    return maps[0] if maps and request.task is None and not has_rows else None


def _wants_map(request: SourceRequest) -> bool:
    """Return whether a task of maps was stated."""
    return request.task is not None and task_named(request.task).gives_map


def name_map(request: SourceRequest, name: object, shape: tuple[int, ...]) -> MapOutput:
    """Return the task of the output `name`, of `shape`, and what it is called from now on."""
    chosen = request.task or DENSE
    task = task_named(chosen)
    own = task.output_name()
    if chosen == DENSE and isinstance(name, str) and name.isidentifier() and name != "images":
        own = name
    return MapOutput(chosen, own, int(task.width_of(shape)))


def take_map(
    request: SourceRequest, model: ModelProto, image_size: tuple[int, int]
) -> tuple[ModelProto, MapOutput] | None:
    """Return `model` with its map as its only output, and what that is; None where it has none."""
    floats = [
        value.name
        for value in model.graph.output
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    ranks = [
        len(value.type.tensor_type.shape.dim)
        for value in model.graph.output
        if value.type.tensor_type.HasField("shape")
    ]
    if not _wants_map(request) and not any(rank in (3, 4) for rank in ranks):
        return None
    if not floats:
        got = ", ".join(
            f"{value.name} {helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name}"
            for value in model.graph.output
        )
        raise SpecError(
            f"{request.address} gives {got}, expected a map of floats. Export it without what "
            "chooses the class of each pixel, such as an ArgMax, and state --task segmentation"
        )
    found = run_once(model, None)
    shapes = {name: tuple(found[name].shape) for name in floats}
    name = choose_map(request, shapes, image_size)
    if name is None:
        return None
    others = [value for value in model.graph.output if value.name != name]
    for value in others:
        model.graph.output.remove(value)
    warn_left_out(request, name, [value.name for value in others])
    model = keep_needed(model) if others else model
    return model, name_map(request, name, shapes[name])


def warn_left_out(request: SourceRequest, name: object, others: Sequence[object]) -> None:
    """Report which outputs are left out beside `name`, where there are some."""
    if others:
        _log.warning(
            "%s: output %s is used, left out: %s. For one of them add --output-name NAME",
            *(request.address, name, ", ".join(map(str, others))),
        )


class MapModel(nn.Module):
    """A model whose only output is a map, in a tuple.

    `key` is that of the tensor in what `model` returns; None where it returns one tensor.
    """

    def __init__(self, model: nn.Module, key: Any) -> None:
        super().__init__()
        self.model = model
        self.key = key

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return the map, (batch, height, width) or (batch, channels, ...), of `images`."""
        output = self.model(images)
        if self.key is not None:
            output = output[self.key] if isinstance(self.key, int) else _entry(output, self.key)
        return (output,)


def _entry(output: Any, key: str) -> Any:
    return output[key] if isinstance(output, Mapping) else getattr(output, key)


def whole_image(request: SourceRequest, preprocess: PreprocessSpec) -> PreprocessSpec:
    """Return `preprocess` so that nothing is cropped off, unless a crop was asked for."""
    if request.crop_mode is not None:
        return preprocess
    return replace(preprocess, crop_mode="squash", crop_pct=request.crop_pct or 1.0)
