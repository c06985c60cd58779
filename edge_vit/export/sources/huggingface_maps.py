"""Models of transformers that give maps: depth, segmentation, and features on their grid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.huggingface_models import FAMILIES, Choice
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DENSE, DEPTH, INSTANCES, PANOPTIC, SEGMENTATION

DEPTHS: Mapping[str, str] = {
    "depth_anything": "DepthAnythingForDepthEstimation",
    "dpt": "DPTForDepthEstimation",
}
"""Class of each depth model by the config's ``model_type``."""


class FeaturesChoice(Choice):
    """The class of a model without a head, whose features are wanted on their grid."""

    def traceable(self, model: nn.Module) -> nn.Module:
        """Return `model`, of the class, so that it returns its map in a tuple."""
        return PatchFeatures(model)


def choose_map_class(config: Any, task: TaskName | None) -> Choice | None:
    """Return the class of a model whose output is a map; None where no map is wanted of `config`.

    One is where the config names a depth model, or where the user wants depth, or features on a
    grid, as task ``dense``.
    """
    named = next(iter(config.architectures or ()), "")
    depth = DEPTHS.get(config.model_type)
    if depth is not None and (task == DEPTH or (task is None and named in ("", depth))):
        outputs = (task_named(DEPTH).output_name(),)
        return Choice(depth, config, DEPTH, outputs=outputs, attributes=("predicted_depth",))
    family = FAMILIES.get(config.model_type)
    if task != DENSE or family is None or family.clip(config) is not None:
        return None
    image_config = getattr(config, "vision_config", config)
    return FeaturesChoice(family.name + family.base, image_config, DENSE, outputs=("feature_map",))


def fix_neck(model: Any, image_size: tuple[int, int]) -> None:
    """Let the neck of a DPT take the grid of images that are not square.

    Of a model without a backbone of its own transformers takes every grid for a square.
    """
    config, neck = model.config, getattr(model, "neck", None)
    if neck is None or getattr(config, "backbone_config", None) is not None or config.is_hybrid:
        return
    rows, columns = (side // config.patch_size for side in image_size)
    forward = neck.forward
    neck.forward = functools.wraps(forward)(
        lambda hidden_states, *_, **__: forward(hidden_states, rows, columns)
    )


class PatchFeatures(nn.Module):
    """A model without a head that returns its last tokens on the grid of its patches."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        depths = getattr(model.config, "depths", ())  # of stages, each but the first halves it
        self.stride = model.config.patch_size * 2 ** max(0, len(depths) - 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Return features (B, channels, rows, columns) of `images` (B, 3, H, W)."""
        tokens = self.model(pixel_values=images).last_hidden_state
        rows, columns = (side // self.stride for side in images.shape[2:])
        own = tokens[:, tokens.shape[1] - rows * columns :]  # class token and registers go first
        return (own.transpose(1, 2).reshape(-1, tokens.shape[2], rows, columns),)


@dataclass(frozen=True)
class Segmenter:
    """What transformers has for masks of one `model_type`."""

    class_name: str  # of the model
    tasks: tuple[TaskName, ...] = (SEGMENTATION,)  # that outputs can be read as, the default first
    # Names in the graph, and the attributes that hold them in what the model returns
    outputs: tuple[tuple[str, str], ...] = (("logits", "logits"),)
    activation: Activation = "softmax"


_QUERIES = (("class_logits", "class_queries_logits"), ("mask_logits", "masks_queries_logits"))
_UNIVERSAL = (SEGMENTATION, INSTANCES, PANOPTIC)

SEGMENTERS: Mapping[str, Segmenter] = {
    "segformer": Segmenter("SegformerForSemanticSegmentation"),
    "dpt": Segmenter("DPTForSemanticSegmentation"),
    "beit": Segmenter("BeitForSemanticSegmentation"),
    "data2vec-vision": Segmenter("Data2VecVisionForSemanticSegmentation"),
    "mobilevit": Segmenter("MobileViTForSemanticSegmentation"),
    "mobilevitv2": Segmenter("MobileViTV2ForSemanticSegmentation"),
    "upernet": Segmenter("UperNetForSemanticSegmentation"),
    "eomt": Segmenter("EomtForUniversalSegmentation", _UNIVERSAL, _QUERIES),
    "eomt_dinov3": Segmenter("EomtDinov3ForUniversalSegmentation", _UNIVERSAL, _QUERIES),
    "mask2former": Segmenter("Mask2FormerForUniversalSegmentation", _UNIVERSAL, _QUERIES),
    "maskformer": Segmenter("MaskFormerForInstanceSegmentation", _UNIVERSAL, _QUERIES),
    "rf_detr": Segmenter(
        "RfDetrForInstanceSegmentation",
        (INSTANCES,),
        (("class_logits", "logits"), ("mask_logits", "pred_masks")),
        "sigmoid",
    ),
}
"""By the config's ``model_type``."""


OWN_ATTENTION = frozenset({"data2vec-vision"})
"""Types whose code has a table of its own of implementations of attention."""


def choose_segmenter(config: Any, task: TaskName | None, address: str) -> Choice | None:
    """Return the segmentation model of a config, or None where it is for another kind of model.

    It is one where the config names its class, or where the user wants one of its tasks.
    """
    found = SEGMENTERS.get(config.model_type)
    if found is None:
        return None
    is_named = next(iter(config.architectures or ()), "") == found.class_name
    if is_named and task not in (None, *found.tasks):
        raise SpecError(
            f"--task {task}: {address} is a {found.class_name}, expected {' or '.join(found.tasks)}"
        )
    if not is_named and task not in found.tasks:
        return None
    names, attributes = zip(*found.outputs, strict=True)
    return Choice(
        found.class_name,
        config,
        task or found.tasks[0],
        activation=found.activation,
        outputs=names,
        attributes=attributes,
    )


def usual_size(config: Any) -> tuple[int, int] | None:
    """Return the (height, width) of the images that a config is for, where it tells."""
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        return side, side
    return (int(side[0]), int(side[1])) if side else None
