"""The models of transformers that can be exported, and what each of them gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks.declared import DETECTION, FEATURES, task_of_problem

Feature = Literal["class token", "mean token", "pooler_output", "image_embeds"]
"""What stands for the whole image in a model without a head; the last two in transformers' words.

``mean token`` is the mean over all tokens, of models that have no class token.
"""

_HEAD = "ForImageClassification"


@dataclass(frozen=True)
class Family:
    """What transformers has for one `model_type`.

    Attributes:
        name: that its classes begin with.
        base: what the class without a head ends with.
        feature: of the class without a head.
        has_classifier: whether there is a class with a head.
        sizes: how its positions take another image size: by interpolation, of themselves (rotary
            ones), or not at all.
    """

    name: str
    base: str = "Model"
    feature: Feature = "class token"
    has_classifier: bool = True
    sizes: Literal["interpolated", "free", "fixed"] = "interpolated"


_SIGLIP = Family("Siglip", "VisionModel", "pooler_output", sizes="fixed")
_CLIP = Family("CLIP", "VisionModel", "pooler_output", sizes="fixed")

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
}
"""By the config's ``model_type``."""


DETECTORS: Mapping[str, str] = {
    "detr": "DetrForObjectDetection",
    "yolos": "YolosForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "d_fine": "DFineForObjectDetection",
    "rf_detr": "RfDetrForObjectDetection",
    "lw_detr": "LwDetrForObjectDetection",
}
"""Class of each detector by the config's ``model_type``."""


@dataclass(frozen=True)
class Choice:
    """The class to make of a config.

    Attributes:
        class_name: in transformers.
        config: for it: the image half's where the model has a text half.
        task: what it gives.
        feature: which of its outputs that is, for `features`.
        activation: of a detector's class logits.
        outputs: names of several outputs; empty for a single one.
    """

    class_name: str
    config: Any
    task: TaskName
    feature: Feature
    activation: Activation | None = None
    outputs: tuple[str, ...] = ()


def choose_class(config: Any, num_classes: int | None, address: str) -> Choice:
    """Return the class to make: the config's own classifier, or the bare model.

    Args:
        config: of one of `FAMILIES`.
        num_classes: that the user wants; 0 for features, None for what the config says.
        address: of the model, for messages.

    Raises:
        SpecError: classes are wanted of a model that has no class with a head, or features of a
            detector.
    """
    if config.model_type in DETECTORS:
        return _choose_detector(config, num_classes, address)
    family = FAMILIES[config.model_type]
    bare, head = family.name + family.base, family.name + _HEAD
    named = next(iter(config.architectures or ()), bare)
    if num_classes and not family.has_classifier:
        raise SpecError(
            f"{address}: {config.model_type} models have no classifier in transformers. "
            "Export it with --num-classes 0, as features"
        )
    if num_classes == 0 or (num_classes is None and _HEAD not in named):
        image_config = getattr(config, "vision_config", config)
        if named in ("CLIPModel", "CLIPVisionModelWithProjection"):
            image_config.projection_dim = config.projection_dim  # the half's own is a default
            return Choice(f"{bare}WithProjection", image_config, FEATURES, "image_embeds")
        return Choice(bare, image_config, FEATURES, family.feature)
    # DeiT has two classifiers, with its teacher's head and without.
    chosen = named if named.startswith(head) else head
    task = task_of_problem(config.problem_type)
    return Choice(chosen, config, task, family.feature)


def _choose_detector(config: Any, num_classes: int | None, address: str) -> Choice:
    """Return the detector of `config`: softmax with "no object" last, or sigmoid of each class."""
    if num_classes == 0:
        raise SpecError(
            f"{address}: a detector gives boxes, not features. Leave --num-classes 0 out"
        )
    has_no_object = config.model_type in ("detr", "yolos") or not getattr(
        config, "use_focal_loss", True
    )
    activation: Activation = "softmax" if has_no_object else "sigmoid"
    outputs = ("logits", "boxes")
    made = DETECTORS[config.model_type]
    return Choice(made, config, DETECTION, "class token", activation, outputs)
