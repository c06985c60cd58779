"""Image models of transformers without an entry of their own, by transformers' own tables."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.huggingface_models import (
    DETECTORS,
    FAMILIES,
    HEAD,
    Choice,
    Family,
    Wrapper,
    traceable_at_any_batch,
)
from edge_vit.export.sources.values import first_line
from edge_vit.spec import TaskName
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import CLASSES, DENSE, DEPTH, FEATURES, SEGMENTATION

_MAPS: Mapping[str, TaskName] = {
    "ForDepthEstimation": DEPTH,
    "ForSemanticSegmentation": SEGMENTATION,
    "ForImageSuperResolution": DENSE,
    "ForImageMatting": DENSE,
    "ForPoseEstimation": DENSE,
}
"""Ends of the names of classes whose output is a map, and what it means."""

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def find_family(transformers: ModuleType, config: Any) -> Family | None:
    """Return the family of a config: its entry, or what transformers' tables of classes tell.

    None where they have neither a classifier nor a model of images for its ``model_type``.
    """
    kind = config.model_type
    if kind in FAMILIES:
        return FAMILIES[kind]
    tables = transformers.models.auto.modeling_auto
    classifier = tables.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(kind)
    bare = tables.MODEL_FOR_IMAGE_MAPPING_NAMES.get(kind, tables.MODEL_MAPPING_NAMES.get(kind))
    if classifier is None:
        if kind not in tables.MODEL_FOR_IMAGE_MAPPING_NAMES:
            return None
        return Family(bare, base="", feature="pooler_output", has_classifier=False, sizes="free")
    first = classifier if isinstance(classifier, str) else classifier[0]
    name = first.partition(HEAD)[0]
    base = bare.removeprefix(name) if isinstance(bare, str) else "Model"
    return Family(name, base=base, feature="pooler_output", sizes="free")


@dataclass(frozen=True)
class NamedChoice(Choice):
    """The class that a config names: of its outputs the map, the logits or the only one counts."""

    def traceable(self, model: nn.Module) -> nn.Module:
        """Return `model`, of the class, so that it returns tensors by name."""
        return super().traceable(model) if self.feature == "tower" else AllOutputs(model)


def choose_named(
    transformers: ModuleType,
    config: Any,
    family: Family | None,
    task: TaskName | None,
    address: str,
) -> Choice | None:
    """Return the class that `config` names, where neither a family nor a table has another one.

    It is one of maps by the end of its name or by the `task` that is wanted, and one of features
    where it has an image tower of its own; others have to run on images alone.
    """
    named = next(iter(config.architectures or ()), "")
    wanted = next((each for end, each in _MAPS.items() if named.endswith(end)), None)
    is_map = wanted is not None or (task is not None and task_named(task).gives_map)
    if not is_map and (family is not None or config.model_type in DETECTORS):
        return None
    model_class = getattr(transformers, named, None)
    if model_class is None:
        if not named:
            raise SpecError(
                f"{address}: its config.json names no class of a {config.model_type!r} model, "
                'expected one in "architectures". Write there the class that the weights are of'
            )
        raise SpecError(
            f"{address}: its config.json names {named}, which transformers "
            f"{transformers.__version__} does not have. Update it, or wrap the model in a module "
            "of your own, and export that with python:"
        )
    if is_map:
        return NamedChoice(named, config, task or wanted or DENSE)
    if has_towers(model_class, config):
        return NamedChoice(named, config, FEATURES, "tower")
    has_head = "For" in named
    return NamedChoice(named, config, CLASSES if has_head else FEATURES)


def has_towers(model_class: Any, config: Any) -> bool:
    """Return whether a class has an image and a text tower that are called one by one."""
    methods = ("get_image_features", "get_text_features")
    return hasattr(config, "text_config") and all(hasattr(model_class, name) for name in methods)


def explain_refusal(model: nn.Module, address: str, error: SpecError) -> str:
    """Return why a model cannot be exported whole, and what can be typed in its place."""
    parts = (
        name
        for name, part in model.named_modules()
        if name and getattr(part, "main_input_name", "") == "pixel_values"
    )
    part = next(parts, None)
    what = f"its {part}" if part else "the part of it that sees images"
    given = inspect.signature(model.forward).parameters.values()
    needed = [each.name for each in given if each.default is each.empty and each.kind in _BY_NAME]
    others = [name for name in needed if name != "pixel_values"]
    if others:
        why, advice = f"it takes {', '.join(others)} too", f"Wrap {what}"
    else:
        why = first_line(error.__cause__ or error)
        advice = f"Add --image-size where only their size is wrong, or wrap {what}"
    return (
        f"{address}: {type(model).__name__} does not run on images alone ({why}). {advice} in a "
        "module that takes images and returns logits, features or a map, and export that with "
        "python:"
    )


class AllOutputs(Wrapper):
    """A transformers model that returns its tensors by name, the last one of a list of several."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return what the model gives for `images` (B, 3, H, W)."""
        with traceable_at_any_batch(sys.modules[type(self.model).__module__]):
            outputs = self.model(**{self.input_name: images})
        last = {
            name: value[-1] if isinstance(value, list | tuple) and value else value
            for name, value in outputs.items()
        }
        return {name: value for name, value in last.items() if isinstance(value, Tensor)}
