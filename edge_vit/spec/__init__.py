"""The facts of a model and of its input, as frozen values that travel in the bundle."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edge_vit.errors import SpecError
from edge_vit.formats import Precision as Precision
from edge_vit.spec.clip import ClipSpec as ClipSpec
from edge_vit.spec.sampling import SamplingSpec as SamplingSpec
from edge_vit.values import WRITTEN_IF_SET, settle

if TYPE_CHECKING:
    from edge_vit.tasks.base import Task

TaskName = str
"""The meaning of outputs: a name of `edge_vit.tasks.TASKS`, such as ``classification``."""

Activation = Literal["softmax", "sigmoid", "none"]
"""Turns an output into probabilities; `none` where it is one already, or never becomes one."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
CropMode = Literal["center", "squash", "border"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    dtype: str  # numpy's name of the element type, such as uint8
    shape: tuple[int | str, ...]  # a number where it is fixed, else a name such as batch
    # Of indices, such as those of a codebook: what they are below
    below: int | None = field(default=None, metadata=WRITTEN_IF_SET)

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class PreprocessSpec:
    """The way from an image to the model's input, in the terms of timm.

    `edge_vit.data.preprocess` resizes and crops; `mean` and `std` are applied inside the graph.
    """

    image_size: tuple[int, int]  # (height, width) of the model's input, in pixels
    # How pixels are resampled; always antialiased, as Pillow does it
    interpolation: Interpolation = "bicubic"
    # Share of the resized image that the crop keeps: the image is resized to image_size / crop_pct
    # first
    crop_pct: float = 0.875
    # By "center" the shorter side is resized and the centre cropped; by "squash" both sides,
    # whatever the aspect ratio; by "border" the longer side, and the rest gets the mean colour
    crop_mode: CropMode = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # per channel R, G, B, of values from 0 to 1
    std: tuple[float, float, float] = IMAGENET_STD  # per channel R, G, B, of values from 0 to 1
    # Frames that make one input; None for a model of single images
    clip: ClipSpec | None = field(default=None, metadata=WRITTEN_IF_SET)

    def __post_init__(self) -> None:
        settle(self)
        if min(self.image_size) < 1:
            raise SpecError(
                f"image_size: got {self.image_size}, expected (height, width) in pixels"
            )
        if not 0 < self.crop_pct <= 1:
            raise SpecError(f"crop_pct: got {self.crop_pct}, expected more than 0 and at most 1")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not all(math.isfinite(v) for v in values):
                raise SpecError(f"{name}: got {values}, expected three finite numbers (R, G, B)")
        if min(self.std) <= 0:
            raise SpecError(f"std: got {self.std}, expected three numbers above 0")

    @property
    def resize_size(self) -> tuple[int, int]:
        """(height, width) before the crop: ``floor(image_size / crop_pct)``, as timm rounds it.

        The tiny addend keeps a `crop_pct` that was itself computed as crop / resize exact.
        """
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in self.image_size)
        return height, width


@dataclass(frozen=True)
class Placement:
    """The place of an image in the model's input.

    A point (x, y) of the image is ``(x * scale_x + left, y * scale_y + top)`` of the input, both in
    pixels from the outer corner.
    """

    scale_y: float
    scale_x: float
    top: float
    left: float


def place(size: tuple[int, ...], spec: PreprocessSpec) -> Placement:
    """Return where an image of `size`, (height, width), lies in the input of `spec`."""
    resized = resized_size(size, spec)
    offsets = []
    for have, want in zip(resized, spec.image_size, strict=True):
        read, write = center_window(have, want)
        offsets.append(float(write.start - read.start))
    return Placement(resized[0] / size[0], resized[1] / size[1], *offsets)


def resized_size(size: tuple[int, ...], spec: PreprocessSpec) -> tuple[int, int]:
    """Return (height, width) of an image of `size`, likewise, after the resize, before the crop."""
    height, width = size
    target_height, target_width = spec.resize_size
    if spec.crop_mode == "squash":
        return target_height, target_width
    if spec.crop_mode == "center" and target_height == target_width:
        # torchvision's Resize(int): the shorter side exact, the longer side rounded down.
        if width <= height:
            return int(target_height * height / width), target_width
        return target_height, int(target_width * width / height)
    # timm's ResizeKeepRatio: cover the target (center) or fit into it (border), rounded to nearest.
    choose = max if spec.crop_mode == "border" else min
    ratio = choose(height / target_height, width / target_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def center_window(have: int, want: int) -> tuple[slice, slice]:
    """Return where to read among `have` values, and where to write among `want`: the centre.

    A crop rounds half to even and a padding rounds down, as in torchvision's `center_crop`.
    """
    if have < want:
        start = (want - have) // 2
        return slice(0, have), slice(start, start + have)
    start = round((have - want) / 2)
    return slice(start, start + want), slice(0, want)


@dataclass(frozen=True)
class BakedText:
    """The text in the head of a zero-shot model, beside its labels."""

    prompts: tuple[str, ...]  # with {} for the label
    digest: str  # SHA-256 of the text matrix, float32 (labels, channels), its rows of length 1


@dataclass(frozen=True)
class ModelSpec:
    """A model as every package sees it: its name, its task, its tensors, its preprocessing."""

    name: str  # for people, such as vit_small_patch16_224
    source: str  # the address it was exported from, such as timm:vit_small_patch16_224
    task: TaskName  # what the output means
    # Names of the classes, labels or scores by index; empty for features or where none are known
    labels: tuple[str, ...]
    # images: uint8 (batch, height, width, 3) RGB, of clips (batch, frames, ...); or what the task
    # takes in place of images
    inputs: tuple[TensorSpec, ...]
    # As the task names them, float32, batch first; the first one's last axis holds classes, scores
    # or channels, or it is a map (batch, height, width) or (batch, channels, height, width)
    outputs: tuple[TensorSpec, ...]
    preprocess: PreprocessSpec  # how an image becomes the input
    depth: int = 0  # number of transformer blocks
    # Attention heads per block; 0 where it is not known or differs between blocks, and so are the
    # two below
    num_heads: int = 0
    embed_dim: int = 0  # width of a token
    num_tokens: int = 0  # tokens that attend to each other, prefix tokens included
    licence: str = ""  # of the weights, where it is known
    # What turns the output into probabilities, outside of the graph; the task's own where None is
    # given
    activation: Activation | None = None
    # A label is on from this probability, and a score counts as positive from this value; the
    # task's own where None is given
    threshold: float | None = None
    # IoU from which the worse of two boxes of a class goes; None for none
    nms: float | None = field(default=None, metadata=WRITTEN_IF_SET)
    # What a text tower made of the labels at export; None where the model has a head of its own
    text: BakedText | None = field(default=None, metadata=WRITTEN_IF_SET)
    # How samples are drawn with the model; None where it is no step of diffusion
    sampling: SamplingSpec | None = field(default=None, metadata=WRITTEN_IF_SET)

    def __post_init__(self) -> None:
        task = _task(self.task)
        if self.activation is None:
            object.__setattr__(self, "activation", task.default_activation)
        if self.threshold is None:
            object.__setattr__(self, "threshold", task.default_threshold)
        tensors = (*self.inputs, *self.outputs)
        if not self.inputs or not self.outputs or not all(tensor.shape for tensor in tensors):
            raise SpecError(f"tensors of {self.name}: expected an input and an output with shapes")
        task.check(self)

    @property
    def takes_images(self) -> bool:
        """Whether the input is images, or samples of other inputs (edge_vit.spec.samples)."""
        return _task(self.task).takes_images

    @property
    def gives_probabilities(self) -> bool:
        """Whether each output stands for the probability of a class or label."""
        return _task(self.task).gives_probabilities

    @property
    def num_outputs(self) -> int:
        """Number of classes, labels or scores, or of feature channels."""
        return int(_task(self.task).width_of(self.outputs[0].shape))

    @property
    def static_batch(self) -> int | None:
        """The batch size that the graph insists on, or None where any will do."""
        batch = self.inputs[0].shape[0]
        return batch if isinstance(batch, int) else None

    def describe_blocks(self) -> str:
        """Return the size of the transformer in words, such as ``12 blocks, 197 tokens of 384``."""
        blocks = f"{self.depth} block{'' if self.depth == 1 else 's'}"
        tokens = f"{self.num_tokens} tokens" if self.num_tokens else "number of tokens not known,"
        if self.embed_dim:
            return f"{blocks}, {tokens}{'' if self.num_tokens else ' each'} of {self.embed_dim}"
        return f"{blocks}, {tokens.rstrip(',')}, their width changes"

    def label(self, index: int) -> str:
        """Name of class `index`, or the index itself where there are no labels."""
        return self.labels[index] if self.labels else str(index)


def image_input(
    image_size: tuple[int, int], batch: int | None = None, clip: ClipSpec | None = None
) -> TensorSpec:
    """Return the one input that every edge-vit graph has: uint8 (batch, height, width, 3) RGB.

    Of a model of clips it is (batch, frames, height, width, 3).
    """
    frames = () if clip is None else (clip.frames,)
    return TensorSpec("images", "uint8", (batch or "batch", *frames, *image_size, 3))


def task_output(
    task: TaskName, size: int, batch: int | None = None, activation: Activation | None = None
) -> TensorSpec:
    """Return the first output of `task`: float32 (batch, size), named after what it holds."""
    return _task(task).outputs(size, batch, activation)[0]


def _task(name: TaskName) -> Task:
    from edge_vit.tasks import task_named  # which know what a model is, and so come after it

    return task_named(name)
