"""An opened model, and the checks that every one of them has passed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import refuse_nonfinite
from edge_vit.export.sources.gray import GRAY_REMARK, GrayImages, num_channels, takes_gray
from edge_vit.export.sources.modules import plain_module
from edge_vit.export.sources.one_output import OneOutput, take_output
from edge_vit.export.sources.request import SourceRequest
from edge_vit.spec import Activation, PreprocessSpec, TaskName
from edge_vit.tasks import task_named

_OF_SIZE = re.compile(r"(?i)size|shape|height|width|pixel|dimension|match|resolution|divisible")
"""Words of an error that comes of images of another size."""


@dataclass(frozen=True)
class TorchSource:
    """A torch model that is ready to be traced.

    Attributes:
        module: in eval mode, float32, on the CPU: takes normalised float32 images (B, 3, H, W) and
            returns one tensor, logits (B, classes) or features (B, channels), or a tuple of
            `outputs`.
        name: for people, such as ``vit_small_patch16_224``.
        address: where it came from, such as ``timm:vit_small_patch16_224``.
        task: what the output means.
        labels: class names by index, empty where none are known.
        preprocess: how an image becomes the input.
        licence: of the weights, where the source says it.
        remarks: what was done to the model to make it one that takes images, a sentence each.
        weights: what was taken out of the checkpoint, in one line; empty without one.
        outputs: the task's names of several outputs, in order; empty for a single one.
        activation: of the scores, where the source knows it.
    """

    module: nn.Module
    name: str
    address: str
    task: TaskName
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    licence: str = ""
    remarks: tuple[str, ...] = ()
    weights: str = ""
    outputs: tuple[str, ...] = ()
    activation: Activation | None = None


@dataclass(frozen=True)
class OnnxSource:
    """A graph that somebody else exported.

    Attributes:
        model: one input; one output, float32 (N, classes) or (N, channels), or the `outputs`.
        name: for people: the file's name.
        address: where it came from, such as ``onnx:vit.onnx``.
        task: what the output means.
        labels: class names by index, empty where none are known.
        preprocess: how an image becomes the input.
        input_name: of the graph's input.
        output_name: of the graph's output; the file's first, where it has more.
        is_contract: whether the input is edge-vit's own, uint8 (N, H, W, 3), with the normalisation
            in the graph; else it is normalised float32 (N, 3, H, W).
        licence: of the weights; an ONNX file does not say.
        remarks: what was done to the graph to make it one that takes images, a sentence each.
        weights: empty: they are all in the file.
        outputs: as in `TorchSource`, and so is `activation`.
        activation: see there.
    """

    model: onnx.ModelProto
    name: str
    address: str
    task: TaskName
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    input_name: str
    output_name: str
    is_contract: bool = False
    licence: str = ""
    remarks: tuple[str, ...] = ()
    weights: str = ""
    outputs: tuple[str, ...] = ()
    activation: Activation | None = None


Source = TorchSource | OnnxSource


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
) -> TorchSource:
    """Return `module` as a source, after one image through it has shown that it is one.

    Args:
        request: its labels and number of classes are held against the model.
        module: any device, dtype and mode.
        name: as in `TorchSource`.
        task: as in `TorchSource`.
        preprocess: with the user's overrides in it.
        labels: what the model itself calls its classes; dropped where they are not as many as its
            outputs.
        licence: as in `TorchSource`.
        weights: as in `TorchSource`.
        outputs: as in `TorchSource`; the first one's last axis holds the classes.
        activation: as in `TorchSource`.

    Raises:
        SpecError: the module does not take the image, does not return one (B, N) tensor or the
            `outputs`, or has another number of classes than the user says.
        ArtifactError: a weight is NaN or infinite.
    """
    module = plain_module(module, request.address)
    module = module.cpu().float().eval().requires_grad_(False)
    # Buffers are not asked: an attention mask may hold -inf.
    refuse_nonfinite(dict(module.named_parameters()), request.address)
    remarks: tuple[str, ...] = ()
    if takes_gray(module, preprocess.image_size):
        module, remarks = GrayImages(module), (GRAY_REMARK,)
    output = _run_once(request.address, module, preprocess.image_size)
    if outputs:
        columns = _columns(request.address, output, outputs)
        columns = task_named(task).num_labels(columns, activation)
    else:
        module, taken = take_output(module, output)
        remarks += taken
        if taken or isinstance(module, OneOutput):
            output = _run_once(request.address, module, preprocess.image_size)
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
    )


def check_classes(
    request: SourceRequest, task: TaskName, num_outputs: int, own_labels: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the labels of `num_outputs` outputs: the user's, or the model's own where they fit.

    Raises:
        SpecError: the user says labels or a number of classes that the model does not have.
    """
    if not task_named(task).has_labels:
        if request.labels:
            raise SpecError(
                f"{request.address} gives features, not classes, but --labels names "
                f"{len(request.labels)}. "
                "Leave --labels out"
            )
        return ()
    if request.classes not in (None, num_outputs):
        said = "labels" if request.num_classes is None else "classes"
        raise SpecError(
            f"{request.address} has {num_outputs} classes, but {request.classes} {said} were given"
        )
    return request.labels or (own_labels if len(own_labels) == num_outputs else ())


def _run_once(address: str, module: nn.Module, image_size: tuple[int, int]) -> object:
    """Return what `module` returns for one black image."""
    height, width = image_size
    try:
        with torch.no_grad():
            output: object = module(
                torch.zeros(1, 3, height, width, dtype=torch.float32, device="cpu")
            )
    except (Exception, SystemExit) as error:  # somebody else's forward can raise anything
        channels = num_channels(module)
        advice = ""
        if channels not in (None, 3):
            advice = (
                f". It takes {channels} channels, an image has 3 (R, G, B): wrap it in a module "
                "that makes them, and export that with python:"
            )
        elif _OF_SIZE.search(str(error)):
            advice = ". Add --image-size with the size it was made for"
        raise SpecError(
            f"{address} does not take float32 images (1, 3, {height}, {width}): "
            f"{type(error).__name__}: {first_line(error)}{advice}"
        ) from error
    return output


def _columns(address: str, output: object, names: tuple[str, ...]) -> int:
    """Return C of the first of several outputs (B, N, C)."""
    given = output if isinstance(output, tuple) else ()
    if len(given) != len(names) or not all(isinstance(x, Tensor) and x.ndim == 3 for x in given):
        raise SpecError(
            f"{address} returns a {type(output).__name__}, expected {len(names)} tensors (batch, "
            f"rows, columns): {', '.join(names)}"
        )
    return int(given[0].shape[2])


def _width(address: str, output: object) -> int:
    """Return N of an output (B, N)."""
    if not isinstance(output, Tensor):
        raise SpecError(
            f"{address} returns a {type(output).__name__}, expected one tensor. Wrap it in a "
            "module that returns the logits alone, and export that with python:"
        )
    if not output.is_floating_point():
        raise SpecError(
            f"{address} returns {str(output.dtype)[6:]}, expected logits or probabilities of "
            "floating point. Leave out what chooses among them, such as argmax"
        )
    if output.ndim != 2:
        raise SpecError(
            f"{address} returns {tuple(output.shape)}, expected (batch, classes) or (batch, "
            "channels)"
        )
    return int(output.shape[1])


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something, cut to fit into a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".:")
