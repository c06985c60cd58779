"""The models of transformers that can be exported: what each gives, and what tracing it needs."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, ClipSpec, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DETECTION, FEATURES, task_of_problem

Feature = Literal["class token", "mean token", "pooler_output", "image_embeds", "tower"]
"""What stands for the whole image in a model without a head.

``mean token`` is the mean over all tokens, of models that have no class token; ``pooler_output``
and ``image_embeds`` are transformers' words; ``tower`` is the image tower of a model of two.
"""

HEAD, _VIDEO_HEAD = "ForImageClassification", "ForVideoClassification"


@dataclass(frozen=True)
class Family:
    """What transformers has for one `model_type`."""

    name: str  # that its classes begin with
    base: str = "Model"  # what the class without a head ends with
    feature: Feature = "class token"  # of the class without a head
    has_classifier: bool = True  # whether there is a class with a head
    # How positions take another image size: by interpolation, of themselves (rotary ones), not at
    # all, or as the places of patches that come one by one
    sizes: Literal["interpolated", "free", "fixed", "patches"] = "interpolated"
    # What turns the logits of its class of both towers, such as CLIPModel, into probabilities
    pair: Activation | None = None
    # Whether the image tower with the projection of that class is a class too
    has_half: bool = True
    head: str = HEAD  # what the class with a head ends with
    frames: str = ""  # the config's name for the number of frames of a clip; empty for images
    stride: int = 1  # of those frames, as its authors trained on Kinetics
    size: str = "image_size"  # the config's name for the side of an image

    def clip(self, config: Any) -> ClipSpec | None:
        """Return which frames of a video a model of `config` reads; None for one of images."""
        return ClipSpec(getattr(config, self.frames), self.stride) if self.frames else None


_POOLED: Any = {"base": "VisionModel", "feature": "pooler_output"}
_SIGLIP = Family("Siglip", **_POOLED, sizes="fixed", pair="sigmoid")
_SIGLIP2 = Family("Siglip2", **_POOLED, sizes="patches", pair="sigmoid")
_CLIP = Family("CLIP", **_POOLED, sizes="fixed", pair="softmax")
_METACLIP = Family("MetaClip2", **_POOLED, sizes="fixed", pair="softmax")
_ALTCLIP, _CHINESE_CLIP = (
    Family(name, **_POOLED, has_classifier=False, sizes="fixed", pair="softmax", has_half=False)
    for name in ("AltCLIP", "ChineseCLIP")
)


def _video(name: str, *, frames: str = "num_frames", **said: Any) -> Family:
    return Family(name, sizes="fixed", head=_VIDEO_HEAD, frames=frames, **said)


FAMILIES: Mapping[str, Family] = {
    "vit": Family("ViT"),
    "deit": Family("DeiT"),
    "dinov2": Family("Dinov2"),
    "dinov2_with_registers": Family("Dinov2WithRegisters"),
    "dinov3_vit": Family("DINOv3ViT", has_classifier=False, sizes="free"),
    "vit_msn": Family("ViTMSN"),
    "beit": Family("Beit", sizes="fixed"),
    "swin": Family("Swin", feature="pooler_output", sizes="fixed"),
    "swinv2": Family("Swinv2", feature="pooler_output", sizes="fixed"),
    "ijepa": Family("IJepa", feature="mean token"),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "metaclip_2": _METACLIP,
    "metaclip_2_vision_model": _METACLIP,
    "altclip": _ALTCLIP,
    "altclip_vision_model": _ALTCLIP,
    "chinese_clip": _CHINESE_CLIP,
    "chinese_clip_vision_model": _CHINESE_CLIP,
    "timesformer": _video("Timesformer", stride=32),
    "videomae": _video("VideoMAE", stride=4, feature="mean token"),
    "vivit": _video("Vivit", stride=2),
    "vjepa2": _video(
        "VJEPA2", stride=4, feature="mean token", frames="frames_per_clip", size="crop_size"
    ),
}
"""By the config's ``model_type``."""


DETECTORS: Mapping[str, str] = {
    "detr": "DetrForObjectDetection",
    "conditional_detr": "ConditionalDetrForObjectDetection",
    "dab-detr": "DabDetrForObjectDetection",
    "deformable_detr": "DeformableDetrForObjectDetection",
    "table-transformer": "TableTransformerForObjectDetection",
    "yolos": "YolosForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "d_fine": "DFineForObjectDetection",
    "deimv2": "Deimv2ForObjectDetection",
    "rf_detr": "RfDetrForObjectDetection",
    "lw_detr": "LwDetrForObjectDetection",
}
"""Class of each detector by the config's ``model_type``."""

_WITH_NO_OBJECT = ("detr", "table-transformer", "yolos")
"""Those trained with softmax, whose last class is "no object"."""


@dataclass(frozen=True)
class Choice:
    """The class to make of a config."""

    class_name: str  # in transformers
    config: Any  # for it: the image half's where the model has a text half
    task: TaskName  # what it gives
    feature: Feature = "class token"  # which of its outputs that is, for `features`
    activation: Activation | None = None  # of the logits, where the class tells it
    outputs: tuple[str, ...] = ()  # names of several outputs; empty for a single one
    attributes: tuple[str, ...] = ()  # of what the model returns, that hold them

    def traceable(self, model: nn.Module) -> nn.Module:
        """Return `model`, of the class, so that it returns tensors alone."""
        if self.attributes:
            return Outputs(model, self.attributes)
        if self.feature == "tower":
            return ImageTower(model)
        has_head = task_named(self.task).has_head
        return Logits(model) if has_head else Features(model, self.feature)


def is_pair(config: Any) -> bool:
    """Return whether the weights beside `config` are an image and a text tower without a head."""
    family = FAMILIES.get(config.model_type)
    is_whole = family is not None and f"{family.name}Model" in (config.architectures or ())
    return is_whole and family is not None and family.pair is not None


def choose_pair(config: Any, address: str) -> Choice:
    """Return the class of both towers, whose labels are texts."""
    family = FAMILIES.get(config.model_type)
    if family is None or family.pair is None or not hasattr(config, "text_config"):
        named = next(iter(config.architectures or ()), config.model_type)
        known = ", ".join(sorted({each.name for each in FAMILIES.values() if each.pair}))
        raise SpecError(
            f"--prompt: {address} is a {named}, which has no text tower beside one for images. "
            f"Take one that has both, such as {known}, or leave it out"
        )
    is_single = family.pair == "softmax"
    task = task_of_problem(None if is_single else "multi_label_classification")
    return Choice(f"{family.name}Model", config, task, "tower", family.pair)


def choose_class(
    config: Any, family: Family | None, num_classes: int | None, address: str
) -> Choice:
    """Return the class to make: the config's own classifier or detector, or the bare model.

    `num_classes` is what the user wants: 0 for features, None for what the config says.
    """
    if config.model_type in DETECTORS:
        if num_classes == 0:
            raise SpecError(
                f"{address}: a detector gives boxes, not features. Leave --num-classes 0 out"
            )
        # softmax with "no object" last, or sigmoid of each class
        is_focal = config.model_type not in _WITH_NO_OBJECT and getattr(
            config, "use_focal_loss", True
        )
        return Choice(
            DETECTORS[config.model_type],
            config,
            DETECTION,
            activation="sigmoid" if is_focal else "softmax",
            outputs=("logits", "boxes"),
            attributes=("logits", "pred_boxes"),
        )
    assert family is not None, "the class that the config names is chosen before"
    bare, head = family.name + family.base, family.name + family.head
    named = next(iter(config.architectures or ()), bare)
    if num_classes and not family.has_classifier:
        raise SpecError(
            f"{address}: {config.model_type} models have no classifier in transformers. "
            "Export it with --num-classes 0, as features"
        )
    if num_classes == 0 or (num_classes is None and family.head not in named):
        image_config = getattr(config, "vision_config", config)
        both = f"{family.name}Model"
        if named == both and not family.has_half:
            return Choice(both, config, FEATURES, "tower")
        if family.pair == "softmax" and named in (both, f"{bare}WithProjection"):
            image_config.projection_dim = config.projection_dim  # the half's own is a default
            return Choice(f"{bare}WithProjection", image_config, FEATURES, "image_embeds")
        return Choice(bare, image_config, FEATURES, family.feature)
    # DeiT has two classifiers, with its teacher's head and without.
    chosen = named if named.startswith(head) else head
    return Choice(chosen, config, task_of_problem(config.problem_type), family.feature)


class Wrapper(nn.Module):
    """A transformers model behind its own name of its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.input_name = str(getattr(model, "main_input_name", "pixel_values"))


class Logits(Wrapper):
    """A transformers classifier that returns its logits as one tensor."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) of `images` (B, 3, H, W), or clips (B, frames, 3, H, W)."""
        logits: Tensor = self.model(**{self.input_name: images}).logits
        return logits


class Features(Wrapper):
    """A transformers model without a head that returns one vector for an image."""

    def __init__(self, model: nn.Module, feature: Feature) -> None:
        super().__init__(model)
        self.feature = feature
        # V-JEPA 2's predictor, which fills in what is masked, has no part in features
        self.options = {"skip_predictor": True} if hasattr(model, "predictor") else {}

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, channels) of `images` (B, 3, H, W), or clips (B, frames, 3, H, W)."""
        outputs = self.model(**{self.input_name: images}, **self.options)
        if self.feature in ("pooler_output", "image_embeds"):
            pooled: Tensor | None = getattr(outputs, self.feature, None)
            return outputs.last_hidden_state if pooled is None else pooled
        tokens: Tensor = outputs.last_hidden_state
        return tokens[:, 0] if self.feature == "class token" else tokens.mean(dim=1)


class ImageTower(Wrapper):
    """The image half of a model of two towers; the text half is dropped."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for name in ("text_model", "text_projection", "logit_scale", "logit_bias"):
            if hasattr(model, name):
                setattr(model, name, None)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embedding (B, channels) of `images` (B, 3, H, W), projected, of any length."""
        features: Any = self.model.get_image_features
        return embedding_in(features(pixel_values=images))


def embedding_in(output: Any) -> Tensor:
    """Return the embedding in what a tower returns: before transformers 5 it is the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class Outputs(Wrapper):
    """A transformers model that returns some of its tensors, by their names in it, in a tuple."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__(model)
        if isinstance(probabilities := getattr(model, "attn_mask_probs", None), Tensor):
            # EoMT's, of training: as numbers, so that the graph does not ask for them
            del model.attn_mask_probs
            vars(model)["attn_mask_probs"] = probabilities.tolist()
        self.names = names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of `images`, (B, 3, H, W)."""
        with traceable_at_any_batch(sys.modules[type(self.model).__module__]):
            outputs = self.model(**{self.input_name: images})
        return tuple(getattr(outputs, name) for name in self.names)


@contextlib.contextmanager
def traceable_at_any_batch(modeling: ModuleType) -> Iterator[None]:
    """Let the code of `modeling` be traced at any batch size.

    Its checks of shapes, which no exporter can write into a graph, are switched off, and `len` of a
    tensor stays symbolic, where Python's own would be a number.
    """

    def length(value: Any) -> Any:
        return value.shape[0] if isinstance(value, Tensor) else len(value)

    with (
        mock.patch.dict(os.environ, {"TRANSFORMERS_DISABLE_TORCH_CHECK": "1"}),
        mock.patch.object(modeling, "len", length, create=True),
    ):
        yield


def fix_grid(model: Any, image_size: tuple[int, int], address: str) -> None:
    """Let a model of single patches (NaFlex) take whole images of one size.

    Each image fills the grid, so that no patch is padding, and the positions are a constant: what
    transformers' own code makes of them for such an image.
    """
    vision = getattr(model, "vision_model", model)
    own, patch = vision.embeddings, vision.config.patch_size
    if image_size[0] % patch or image_size[1] % patch:
        near = ",".join(str(max(1, round(side / patch)) * patch) for side in image_size)
        raise SpecError(
            f"--image-size: {address} takes whole patches of {patch} x {patch} pixels, got "
            f"{image_size[0]} x {image_size[1]}. Add --image-size {near}"
        )
    if not vision.use_head and not hasattr(model, "classifier"):
        raise SpecError(f"{address} has no pooling head, so that it gives no vector for an image")
    vision.embeddings = _GridEmbeddings(own, (image_size[0] // patch, image_size[1] // patch))
    vision.forward = functools.partial(
        vision.forward, pixel_attention_mask=None, spatial_shapes=None
    )


class _GridEmbeddings(nn.Module):
    """The patches of an image and their positions, as tokens."""

    def __init__(self, own: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = grid
        channels, linear, patch = own.embed_dim, own.patch_embedding, own.patch_size
        self.projection = nn.Conv2d(linear.in_features // patch**2, channels, patch, patch)
        self.positions: Tensor
        side = own.position_embedding_size
        positions = own.position_embedding.weight.detach().reshape(side, side, -1)
        with torch.no_grad():  # a patch's numbers are ordered row, column, channel
            kernel = linear.weight.reshape(channels, patch, patch, -1).permute(0, 3, 1, 2)
            self.projection.weight.copy_(kernel)
            self.projection.bias.copy_(linear.bias)  # type: ignore[union-attr]  # there is one
            shapes = torch.tensor([[rows, columns]])
            resized = own.resize_positional_embeddings(positions, shapes, rows * columns)
        self.register_buffer("positions", resized)

    def forward(self, images: Tensor, _shapes: None = None) -> Tensor:
        """Return tokens (B, N, channels) of `images` (B, 3, H, W)."""
        tokens: Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens + self.positions


def attention_of(config: Any, name: str) -> str | dict[str, str]:
    """Return the implementation of attention for each tower: the text tower needs its own masks."""
    has_text = getattr(config, "text_config", None) is not None
    return {"vision_config": name, "text_config": "eager"} if has_text else name


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Return softmax(Q Kᵀ scaling) V as (B, N, h, d_k), and the weights (B, h, N, N).

    Q, K and V are (B, h, N, d_k). Transformers' own forms mask padding, even in images, where there
    is none; the mask would be in every graph. An implementation that it does not know gets no such
    mask, only what belongs to the model: Swin's and BEiT's relative positions, added to the scores.
    """
    scores = query @ key.transpose(-2, -1) * scaling
    if attention_mask is not None:
        assert attention_mask.is_floating_point()
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights
