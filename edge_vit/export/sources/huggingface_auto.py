"""Image models of transformers without an entry of their own, by transformers' own tables."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edge_vit.export.sources.huggingface_models import FAMILIES, HEAD, Family


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
        is_of_images = kind in tables.MODEL_FOR_IMAGE_MAPPING_NAMES
        options: Any = {"feature": "pooler_output", "has_classifier": False, "sizes": "free"}
        return Family(bare, base="", **options) if is_of_images else None
    first = classifier if isinstance(classifier, str) else classifier[0]
    name = first.partition(HEAD)[0]
    base = bare.removeprefix(name) if isinstance(bare, str) else "Model"
    return Family(name, base=base, feature="pooler_output", sizes="free")
