"""Depth models of transformers, and the features of its other models on their grid."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from edge_vit.export.sources.huggingface_models import FAMILIES, Choice
from edge_vit.spec import TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DENSE, DEPTH

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
