"""Segmentation models of transformers: logits of each class on a grid, or queries with masks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.huggingface_models import Choice, traceable_at_any_batch
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks.declared import INSTANCES, PANOPTIC, SEGMENTATION


@dataclass(frozen=True)
class Segmenter:
    """What transformers has for masks of one `model_type`.

    Attributes:
        class_name: of the model.
        tasks: what its outputs can be read as, the default first.
        outputs: names in the graph, and the attributes that hold them in what the model returns.
    """

    class_name: str
    tasks: tuple[TaskName, ...] = (SEGMENTATION,)
    outputs: tuple[tuple[str, str], ...] = (("logits", "logits"),)
    activation: Activation = "softmax"


_QUERIES = (
    ("class_logits", "class_queries_logits"),
    ("mask_logits", "masks_queries_logits"),
)
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


@dataclass(frozen=True)
class SegmenterChoice(Choice):
    """The class of a segmentation model to make of a config."""

    attributes: tuple[str, ...] = ()  # of what it returns, that hold the outputs

    def traceable(self, model: nn.Module) -> nn.Module:
        """Return `model`, of the class, so that it returns the outputs in a tuple."""
        return Masks(model, self.attributes)


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
    return SegmenterChoice(
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


class Masks(nn.Module):
    """A transformers model that returns the tensors of a `Segmenter` in a tuple."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        if isinstance(probabilities := getattr(model, "attn_mask_probs", None), Tensor):
            # EoMT's, of training: as numbers, so that the graph does not ask for them
            del model.attn_mask_probs
            vars(model)["attn_mask_probs"] = probabilities.tolist()
        self.model = model
        self.names = names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of `images`, (B, 3, H, W)."""
        with traceable_at_any_batch(sys.modules[type(self.model).__module__]):
            outputs = self.model(pixel_values=images)
        return tuple(getattr(outputs, name) for name in self.names)
