"""Segmentation models of transformers: logits of each class on a grid, or queries with masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_vit.errors import SpecError
from edge_vit.export.sources.huggingface_models import Choice
from edge_vit.spec import Activation, TaskName
from edge_vit.tasks.declared import INSTANCES, PANOPTIC, SEGMENTATION


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
