"""What a user states about a model: its address, its weights, and what its config does not tell."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from edge_vit.errors import SpecError, did_you_mean
from edge_vit.spec import Activation, ClipSpec, CropMode, Interpolation, PreprocessSpec, TaskName
from edge_vit.spec.clip import Sampling
from edge_vit.tasks import task_named
from edge_vit.values import settle

K = TypeVar("K")
V = TypeVar("V")

_OVERRIDES = ("image_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")


@dataclass(frozen=True)
class SourceRequest:
    """Everything a user may state about a model. None and empty leave it to the model's own config.

    `image_size` and the five fields behind it go over what the source tells: see `PreprocessSpec`.
    """

    address: str  # scheme and target, such as ``timm:vit_small_patch16_224``
    checkpoint: Path | None = None  # with the weights; None for the library's pretrained ones
    random_weights: bool = False  # take seeded random weights, for shape and speed only
    model_args: Mapping[str, object] = field(default_factory=dict)  # for its own constructor
    labels: tuple[str, ...] = ()  # class names by index
    num_classes: int | None = None  # width of the head; 0 takes the head off and exports features
    image_size: tuple[int, int] | None = None  # that position embeddings are interpolated to
    crop_pct: float | None = None
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    frames: int | None = None  # of a clip, as in `ClipSpec`, and so are the two below
    stride: int | None = None
    sampling: Sampling | None = None
    weights_key: str | None = None  # place in the checkpoint, such as ``state_dict_ema``
    # (height, width) in pixels of the images that the checkpoint was trained on
    checkpoint_size: tuple[int, int] | None = None
    task: TaskName | None = None  # what the output means
    activation: Activation | None = None  # what makes probabilities of the model's own output
    threshold: float | None = None  # as in `ModelSpec`, and so is `nms`
    nms: float | None = None
    prompts: tuple[str, ...] = ()  # zero-shot: sentences with ``{}`` for a label
    output_name: str | None = None  # of the output to take, of a file or a module with several

    def __post_init__(self) -> None:
        if not isinstance(self.address, str):
            raise SpecError(
                f"address: got a {type(self.address).__name__}, expected a text such as "
                "timm:vit_small_patch16_224. A module of yours is the result of a function, "
                "python:package.module:function"
            )
        settle(self)
        task = task_named(self.task) if self.task is not None else None
        if task is not None and not task.has_head and self.num_classes is None:
            object.__setattr__(self, "num_classes", 0)  # one wish in two words
        if task is not None and task.has_head == (self.num_classes == 0):
            raise SpecError(
                f"--task {self.task} and --num-classes {self.num_classes}: a model gives features "
                "where it has no head, and only there"
            )
        probable = task is None or task.gives_probabilities
        if self.activation not in (None, "none") and not probable:
            raise SpecError(f"--activation {self.activation}: {self.task} has no probabilities")
        if self.checkpoint is not None and self.random_weights:
            raise SpecError("--checkpoint and --random-weights exclude each other, expected one")
        if self.random_weights:
            self.refuse_options("has no checkpoint", "weights_key", "checkpoint_size")
        if self.num_classes is not None and self.num_classes < 0:
            raise SpecError(f"num_classes: got {self.num_classes}, expected 0 (features) or more")
        # What a bundle or a library's config holds is not refused: a model may be trained with it
        for name, values, most in (("mean", self.mean, 1), ("std", self.std, 16)):
            if values is not None and max(values) > most:
                raise SpecError(
                    f"{name}: got {values}, expected that of values from 0 to 1. Divide mean and "
                    "std by 255"
                )
        if self.prompts:
            self._check_prompts()
        if self.labels and self.num_classes not in (None, len(self.labels)):
            raise SpecError(
                f"labels: got {len(self.labels)} for {self.num_classes} classes, expected one per "
                "class"
            )

    def _check_prompts(self) -> None:
        for prompt in self.prompts:
            if "{}" not in prompt:
                raise SpecError(
                    f"--prompt: got {prompt!r}, expected {{}} where the label goes, such as "
                    "'a photo of a {}'"
                )
        if len(set(self.prompts)) < len(self.prompts):
            raise SpecError("--prompt: got the same prompt twice, expected each once")
        if not self.labels:
            raise SpecError("--prompt: there are no labels to put into it. Add --labels FILE")
        if self.task is not None and not task_named(self.task).gives_probabilities:
            raise SpecError(
                f"--task {self.task}: with --prompt a model gives a probability for each label. "
                "Leave --task out"
            )
        places: dict[str, int] = {}
        for place, label in enumerate(self.labels, 1):
            if label in places:
                raise SpecError(
                    f"--labels: {label!r} is number {places[label]} and number {place}, expected "
                    "each label once: of two equal texts no image can prefer one"
                )
            places[label] = place

    @property
    def target(self) -> str:
        """The address without its scheme."""
        return self.address.partition(":")[2]

    @property
    def classes(self) -> int | None:
        """Width of the head that is asked for, by number or by as many labels; None: neither."""
        return self.num_classes if self.num_classes is not None else len(self.labels) or None

    @property
    def wants_pretrained(self) -> bool:
        """Whether the weights are to come from the library itself."""
        return self.checkpoint is None and not self.random_weights

    def refuse_options(self, why: str, *names: str) -> None:
        """Refuse the options `names` that the user has given."""
        for name in names:
            if getattr(self, name):
                option = name.replace("_", "-").replace("model-args", "model-arg")
                raise SpecError(f"--{option}: {self.address} {why}, leave it out")

    def only(self, outputs: Mapping[K, V]) -> Mapping[K, V]:
        """Return the output that the user names, or all of `outputs` where none is named."""
        if self.output_name is None:
            return outputs
        found = {key: each for key, each in outputs.items() if str(key) == self.output_name}
        if not found:
            names = list(map(str, outputs))
            hint = did_you_mean(self.output_name, names)
            raise SpecError(
                f"--output-name {self.output_name}: {self.address} gives {', '.join(names)}{hint}"
            )
        return found

    def refuse_prompts(self) -> None:
        """Refuse prompts for a model that cannot read them."""
        if self.prompts:
            raise SpecError(
                f"--prompt: {self.address} sees images alone, no text tower comes with it. Take a "
                "model that has both, such as hf:FOLDER with CLIP or SigLIP, or leave it out"
            )

    def square_side(self) -> int | None:
        """Return the side of the images that are asked for, of a model that takes squares."""
        height, width = self.image_size or (None, None)
        if height != width:
            raise SpecError(
                f"image_size: got {self.image_size}, but {self.address} takes square images only"
            )
        return height

    def refine(self, preprocess: PreprocessSpec) -> PreprocessSpec:
        """Return the model's own `preprocess` with the user's options put over it."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _OVERRIDES}
        given["clip"] = self.refine_clip(preprocess.clip)
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(preprocess, **changes)

    def refine_clip(self, own: ClipSpec | None) -> ClipSpec | None:
        """Return which frames a model of clips reads, with the user's options put over its own."""
        if own is None:
            self.refuse_options("reads single images", "frames", "stride", "sampling")
            return None
        if self.frames not in (None, own.frames):
            raise SpecError(
                f"--frames: got {self.frames}, but {self.address} reads clips of {own.frames}. "
                "Leave it out"
            )
        stride, sampling = self.stride or own.stride, self.sampling or own.sampling
        return ClipSpec(own.frames, stride, sampling)

    def whole_preprocess(
        self, image_size: tuple[int, int] | None = None, frames: int | None = None
    ) -> PreprocessSpec:
        """Return the preprocessing of a model that tells nothing of it, or its `image_size`.

        One of clips tells how many `frames`, or the user does.
        """
        frames = frames or self.frames
        image_size = self.image_size or image_size
        examples = {
            "--image-size 224": image_size,
            "--mean 0.485,0.456,0.406": self.mean,
            "--std 0.229,0.224,0.225": self.std,
        }
        missing = [option for option, value in examples.items() if value is None]
        if image_size is None or missing:
            raise SpecError(
                f"{self.address} does not say how its images are prepared. Add {' '.join(missing)} "
                "(these are ImageNet's; many ViTs were trained with 0.5,0.5,0.5 for mean and std)"
            )
        return self.refine(PreprocessSpec(image_size, clip=ClipSpec(frames) if frames else None))


def parse_model_args(texts: Iterable[str]) -> dict[str, object]:
    """Return ``KEY=VALUE`` texts as constructor arguments.

    A value is an int, a float, ``true``, ``false``, ``none`` or a JSON list where it reads as one;
    else text.
    """
    args: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key.isidentifier() or not equals:
            raise SpecError(f"--model-arg: got {text!r}, expected KEY=VALUE, such as depth=2")
        args[key] = _parse_value(key, value)
    return args


def _parse_value(key: str, text: str) -> object:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    readers: tuple[Callable[[str], object], ...] = (int, float)
    for read in (*readers, json.loads) if text.startswith("[") else readers:
        try:
            parsed = read(text)
        except ValueError:
            continue
        return text if isinstance(parsed, float) and not math.isfinite(parsed) else parsed
    if text.startswith("["):
        raise SpecError(f"--model-arg {key}: got {text!r}, expected a JSON list, such as [2,4]")
    return text
