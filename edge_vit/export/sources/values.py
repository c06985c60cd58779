"""An opened model, and the checks that every one of them has passed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import refuse_nonfinite
from edge_vit.export.sources import map_outputs
from edge_vit.export.sources.modules import plain_module
from edge_vit.export.sources.request import SourceRequest
from edge_vit.graph.large import Spill
from edge_vit.spec import Activation, BakedText, PreprocessSpec, SamplingSpec, TaskName, TensorSpec
from edge_vit.tasks import task_named

LUMINANCE = (0.299, 0.587, 0.114)
"""Share of R, G and B in gray (ITU-R BT.601), as Pillow and torchvision take them."""

GRAY_REMARK = (
    "the model takes 1 channel: images are turned to gray in the graph "
    "(0.299 R + 0.587 G + 0.114 B)"
)

CHANNELS_REMARK = "the model takes the channels of a clip before its frames: swapped in the graph"

_OF_SIZE = re.compile(r"(?i)size|shape|height|width|pixel|dimension|match|resolution|divisible")
"""Words of an error that comes of images of another size."""

Key = str | int

_DEEPEST = 4  # containers in containers


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, and what its source knows about it."""

    name: str  # for people, such as ``vit_small_patch16_224``
    address: str  # where it came from, such as ``timm:vit_small_patch16_224``
    task: TaskName  # what the output means
    labels: tuple[str, ...] = ()  # class names by index, empty where none are known
    preprocess: PreprocessSpec  # how an image becomes the input
    licence: str = ""  # of the weights, where the source tells it
    remarks: tuple[str, ...] = ()  # what was done so that it takes images, a sentence each
    weights: str = ""  # what was taken out of the checkpoint, in one line; empty without one
    outputs: tuple[str, ...] = ()  # the task's names of several, in order; empty for a single one
    activation: Activation | None = None  # of the scores, where the source knows it
    text: BakedText | None = None  # in its head, of a zero-shot model
    # What the model takes in place of images, in its own order; empty where it takes images
    inputs: tuple[TensorSpec, ...] = ()
    sampling: SamplingSpec | None = None  # how samples are drawn with it


@dataclass(frozen=True, kw_only=True)
class TorchSource(Source):
    """A torch model that is ready to be traced: in eval mode, float32, on the CPU.

    It takes normalised float32 images (B, 3, H, W), or clips (B, frames, 3, H, W), or its `inputs`
    one after the other, and returns one tensor, logits (B, classes) or features (B, channels), or a
    tuple of `outputs`.
    """

    module: nn.Module


@dataclass(frozen=True, kw_only=True)
class OnnxSource(Source):
    """A graph that another program exported: one input; one float32 output, or the `outputs`.

    The input is normalised float32 (N, 3, H, W), or with `is_contract` edge-vit's own, uint8
    (N, H, W, 3), with the normalisation in the graph; of clips the frames come second.
    """

    model: onnx.ModelProto
    input_name: str
    is_contract: bool = False
    # holds weights of it that no file beside it does
    spill: Spill = field(default_factory=Spill, repr=False, compare=False)


def torch_source(
    request: SourceRequest,
    module: nn.Module,
    *,
    name: str,
    task: TaskName,
    preprocess: PreprocessSpec,
    labels: tuple[str, ...] = (),
    licence: str = "",
    weights: str = "",
    outputs: tuple[str, ...] = (),
    activation: Activation | None = None,
    text: BakedText | None = None,
) -> TorchSource:
    """Return `module` as a source, after one image through it has shown that it is one.

    `module` may be of any device, dtype and mode, `preprocess` has the user's overrides in it, and
    `labels` are dropped where they are not as many as the classes.
    """
    module = plain_module(module, request.address)
    module = module.cpu().float().eval().requires_grad_(False)
    # Buffers are not asked: an attention mask may hold -inf.
    refuse_nonfinite(dict(module.named_parameters()), request.address)
    remarks: tuple[str, ...] = ()
    if preprocess.clip is None and _takes_gray(module, preprocess):
        module, remarks = GrayImages(module), (GRAY_REMARK,)
    if text is not None:
        prompts = f"{len(text.prompts)} prompt{'s' if len(text.prompts) > 1 else ''}"
        remarks += (
            f"{len(request.labels)} labels in {prompts}, read once by the text tower: it is not in "
            "the graph",
        )
    if preprocess.clip is not None:
        remarks = (f"of a video it reads {preprocess.clip}",)
        if not _runs(module, preprocess) and _runs(ChannelsFirst(module), preprocess):
            module, remarks = ChannelsFirst(module), (*remarks, CHANNELS_REMARK)
    output = _run_once(request.address, module, preprocess)
    if outputs:
        columns = _columns(request.address, output, outputs, task)
        columns = task_named(task).num_labels(columns, activation)
    elif (found := _find_map(request, module, output, preprocess.image_size)) is not None:
        module, output_map = found
        task, outputs, columns = output_map.task, (output_map.name,), output_map.num_channels
    else:
        module, taken = _take_output(module, output)
        remarks += taken
        if isinstance(module, OneOutput):
            output = _run_once(request.address, module, preprocess)
        columns = _width(request.address, output)
    return TorchSource(
        module=module,
        name=name,
        address=request.address,
        task=task,
        labels=check_classes(request, task, columns, labels),
        preprocess=preprocess,
        licence=licence,
        remarks=remarks,
        weights=weights,
        outputs=outputs,
        activation=activation,
        text=text,
    )


def check_classes(
    request: SourceRequest, task: TaskName, num_outputs: int, own_labels: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the labels of `num_outputs` outputs: the user's, or the model's own where they fit."""
    if not task_named(task).has_labels:
        if request.labels:
            raise SpecError(
                f"{request.address} gives {task}, not classes, but --labels names "
                f"{len(request.labels)}. Leave --labels out"
            )
        return ()
    if request.classes not in (None, num_outputs):
        given = "labels" if request.num_classes is None else "classes"
        raise SpecError(
            f"{request.address} has {num_outputs} classes, but {request.classes} {given} were given"
        )
    return request.labels or (own_labels if len(own_labels) == num_outputs else ())


def _black(preprocess: PreprocessSpec, channels: int = 3) -> Tensor:
    frames = () if preprocess.clip is None else (preprocess.clip.frames,)
    shape = (1, *frames, channels, *preprocess.image_size)
    # whatever the user's default type and device
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def _run_once(address: str, module: nn.Module, preprocess: PreprocessSpec) -> object:
    """Return what `module` returns for one black image or clip."""
    black = _black(preprocess)
    try:
        with torch.no_grad():
            output: object = module(black)
    except (Exception, SystemExit) as error:  # somebody else's forward can raise anything
        channels, advice = _num_channels(module), ""
        if channels not in (None, 3):
            advice = (
                f". It takes {channels} channels, an image has 3 (R, G, B): wrap it in a module "
                "that makes them, and export that with python:"
            )
        elif _OF_SIZE.search(str(error)):
            advice = ". Add --image-size with the size it was made for"
        raise SpecError(
            f"{address} does not take float32 images {tuple(black.shape)}: "
            f"{type(error).__name__}: {first_line(error)}{advice}"
        ) from error
    return output


def _columns(address: str, output: object, names: tuple[str, ...], task: TaskName) -> int:
    """Return the number of classes or channels of the first of the outputs `names`."""
    given = output if isinstance(output, tuple) else ()
    if len(given) != len(names) or not all(isinstance(x, Tensor) and x.ndim > 1 for x in given):
        raise SpecError(
            f"{address} returns a {type(output).__name__}, expected {len(names)} tensors, batch "
            f"first: {', '.join(names)}"
        )
    return int(task_named(task).width_of(tuple(given[0].shape)))


def _width(address: str, output: object) -> int:
    """Return N of an output (B, N)."""
    if not isinstance(output, Tensor):
        held = {k: tuple(v.shape) for k, v in _entries(output).items() if isinstance(v, Tensor)}
        of = f" of {', '.join(f'{key} {shape}' for key, shape in held.items())}" if held else ""
        raise SpecError(
            f"{address} returns a {type(output).__name__}{of}, expected one tensor. Wrap it in a "
            "module that returns the logits alone, and export that with python:"
        )
    if not output.is_floating_point():
        raise SpecError(
            f"{address} returns {str(output.dtype)[6:]}, expected logits or probabilities of "
            "floating point. Leave out what chooses among them, such as argmax"
        )
    if output.ndim != 2:
        advice = ". For features, pool its tokens in a module, and export that with python:"
        raise SpecError(
            f"{address} returns {tuple(output.shape)}, expected (batch, classes) or (batch, "
            f"channels){advice if output.ndim == 3 else ''}"
        )
    return int(output.shape[1])


class GrayImages(nn.Module):
    """A model of one channel that takes normalised (batch, 3, height, width).

    With the same mean and std for all three, gray of normalised colours is normalised gray.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.luminance: Tensor
        shares = torch.tensor(LUMINANCE, dtype=torch.float32, device="cpu")
        self.register_buffer("luminance", shares.reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return what the model gives for the gray of `images`."""
        output: Tensor = self.model((images * self.luminance).sum(1, keepdim=True))
        return output


def _num_channels(module: nn.Module) -> int | None:
    """Return how many channels the first convolution of `module` takes; None without one."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return next((int(layer.in_channels) for layer in layers), None)


def _takes_gray(module: nn.Module, preprocess: PreprocessSpec) -> bool:
    """Return whether `module` runs on one channel and not on three."""
    is_candidate = _num_channels(module) in (None, 1)
    return is_candidate and not _runs(module, preprocess) and _runs(module, preprocess, 1)


def _runs(module: nn.Module, preprocess: PreprocessSpec, channels: int = 3) -> bool:
    """Return whether `module` takes a black image or clip of so many channels."""
    try:
        with torch.no_grad():
            module(_black(preprocess, channels))
    except (Exception, SystemExit):  # somebody else's forward can raise anything
        return False
    return True


class ChannelsFirst(nn.Module):
    """A model of clips (batch, 3, frames, height, width) that takes the frames before channels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        """Return what the model gives for `clips` (batch, frames, 3, height, width)."""
        output: Tensor = self.model(clips.transpose(1, 2))
        return output


class OneOutput(nn.Module):
    """A model whose output is taken out of containers, and flattened to (batch, classes).

    `keys` lead to the tensor in what `model` returns; there are none where that is one tensor.
    """

    def __init__(self, model: nn.Module, keys: Sequence[Key] = ()) -> None:
        super().__init__()
        self.model = model
        self.keys = tuple(keys)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (batch, classes) of `images`."""
        output = self.model(images)
        for key in self.keys:
            output = _entries(output)[key]
        flat: Tensor = output.reshape(output.shape[0], -1)
        return flat


def _take_output(module: nn.Module, output: object) -> tuple[nn.Module, tuple[str, ...]]:
    """Return `module` so that it returns one tensor (batch, classes), and a sentence about it.

    Of a container it is the tensor called ``logits``, in whatever lies in it too, else the only
    one; of a tensor (batch,) or (batch, classes, 1, 1) the same without the dimensions of one.
    Anything else is left as it is.
    """
    keys: tuple[Key, ...] = ()
    tensor = output
    if not isinstance(output, Tensor):
        tensors = dict(_tensors_in(output))
        own = [keys for keys in tensors if len(keys) == 1]
        named = [keys for keys in tensors if keys[-1] == "logits"]
        best = [keys for keys in named if len(keys) == 1] or named or own
        keys = best[0] if len(best) == 1 else ()
        tensor = tensors.get(keys)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return module, ()
    is_flat = tensor.ndim == 2
    if not is_flat and (tensor.ndim not in (1, 4) or tensor[0].numel() != max(tensor.shape)):
        return module, ()
    if not keys:
        return (module if is_flat else OneOutput(module)), ()
    name = repr(keys[0]) if len(keys) == 1 else repr(".".join(map(str, keys)))
    return OneOutput(module, keys), (f"of what the model returns, {name} is taken",)


def _find_map(
    request: SourceRequest, module: nn.Module, output: object, image_size: tuple[int, int]
) -> tuple[nn.Module, map_outputs.MapOutput] | None:
    """Return `module` so that it returns its map in a tuple, and what that is; None without one."""
    is_single = isinstance(output, Tensor)
    tensors = request.only({0: output} if is_single else _entries(output))
    shapes = {
        key: tuple(each.shape)
        for key, each in tensors.items()
        if isinstance(each, Tensor) and each.is_floating_point()
    }
    key = map_outputs.choose_map(request, shapes, image_size)
    if key is None:
        return None
    map_outputs.warn_left_out(request, key, [other for other in shapes if other != key])
    return map_outputs.MapModel(module, None if is_single else key), map_outputs.name_map(
        request, key, shapes[key]
    )


def _tensors_in(
    output: object, outer: tuple[Key, ...] = ()
) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """Yield each tensor in a container, at any depth, with the keys that lead to it."""
    for key, value in _entries(output).items():
        keys = (*outer, key)
        if isinstance(value, Tensor):
            yield keys, value
        elif len(keys) < _DEEPEST:
            yield from _tensors_in(value, keys)


def _entries(output: object) -> Mapping[Any, Any]:
    """Return what lies in a container by its name or place; nothing where `output` is none."""
    if isinstance(output, Mapping):
        return output
    if dataclasses.is_dataclass(output):
        return vars(output)
    if not isinstance(output, Sequence):
        return {}
    names: Iterable[Key] = getattr(output, "_fields", range(len(output)))
    return dict(zip(names, output, strict=True))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that is not empty, cut to fit into a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")
