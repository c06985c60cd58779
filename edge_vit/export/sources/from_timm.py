"""``timm:NAME[.TAG]`` or ``timm:FOLDER``: timm's models, with the preprocessing that is theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from edge_vit.errors import SpecError, did_you_mean
from edge_vit.export.sources import libraries
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.timm_folder import TimmFolder, find_timm_folder
from edge_vit.export.sources.timm_weights import fill_timm
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.declared import task_of_head


def open_timm(request: SourceRequest) -> TorchSource:
    """Return the timm model that `request` names, by name or by a folder that timm saved."""
    timm = require("timm", "exporting a timm: model")
    folder = find_timm_folder(request.target)
    if folder is not None:
        return open_timm_folder(request, folder)
    weights = ""
    with libraries.quiet("timm", "huggingface_hub"):
        config = _find_config(timm, request.target)
        if request.wants_pretrained:
            _refuse_new_head(request, config)
        module = _make(timm, request, request.target, {}, pretrained=request.wants_pretrained)
        if request.checkpoint is not None:
            weights = fill_timm(timm, module, request, request.checkpoint)
        preprocess = _read_preprocess(timm, module)
    return torch_source(
        request,
        module,
        name=request.target,
        task=task_of_head(0 if module.num_classes == 0 else None),
        preprocess=request.refine(preprocess),
        labels=_imagenet_labels() if module.num_classes == config["num_classes"] == 1000 else (),
        licence=config.get("license") or "" if request.wants_pretrained else "",
        weights=weights,
    )


def open_timm_folder(request: SourceRequest, folder: TimmFolder) -> TorchSource:
    """Return the model in a folder that timm saved, with its own classes, labels, preprocessing."""
    timm = require("timm", "exporting a timm: model")
    config, weights = folder.pretrained_cfg, ""
    with libraries.quiet("timm", "huggingface_hub"):
        _find_config(timm, folder.architecture)
        own = folder.model_args
        module = _make(timm, request, folder.architecture, own, pretrained_cfg=dict(config))
        if not request.random_weights:
            weights = fill_timm(timm, module, request, request.checkpoint or folder.weights)
        try:
            preprocess = _read_preprocess(timm, module)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise SpecError(
                f"{folder.path / 'config.json'}: its pretrained_cfg tells no preprocessing "
                f"({first_line(error)})"
            ) from None
    labels, is_hub = folder.labels, request.target.startswith("hf-hub:")
    if not labels and module.num_classes == 1000:
        labels = _imagenet_labels() if str(config.get("tag") or "").endswith("in1k") else ()
    return torch_source(
        request,
        module,
        name=folder.architecture if is_hub else folder.path.resolve().name,
        task=task_of_head(0 if module.num_classes == 0 else None),
        preprocess=request.refine(preprocess),
        labels=labels,
        licence=str(config.get("license") or ""),
        weights=weights,
    )


def _find_config(timm: ModuleType, name: str) -> Mapping[str, Any]:
    """Return timm's facts about `name`: its classes, its licence, where its weights are."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), 3)
        raise SpecError(f"timm has no model {architecture!r}{hint or ', see timm.list_models()'}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        known = ", ".join(full.partition(".")[2] for full in tagged) or "none"
        raise SpecError(f"timm has no weights {tag!r} for {architecture}, known are {known}")
    config: Mapping[str, Any] = timm.models.get_pretrained_cfg(name).to_dict()
    return config


def _make(
    timm: ModuleType,
    request: SourceRequest,
    name: str,
    own_args: Mapping[str, Any],
    *,
    pretrained: bool = False,
    pretrained_cfg: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return timm's model `name`; what the user states goes over its `own_args`."""
    arguments = {**own_args, **request.model_args}
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    if request.image_size is not None:
        arguments["img_size"] = request.image_size
    own = {"pretrained": pretrained, "pretrained_cfg": pretrained_cfg}
    try:
        with libraries.hub_access() if pretrained else contextlib.nullcontext():
            try:
                module: nn.Module = libraries.make(
                    "timm", timm.create_model, name, arguments, **own
                )
            except SpecError as error:
                text = str(error)
                if "unexpected keyword argument" not in text or "'img_size'" not in text:
                    raise
                del arguments["img_size"]  # a model without positions, which runs at any size
                module = libraries.make("timm", timm.create_model, name, arguments, **own)
    except OSError:
        raise libraries.no_pretrained(request.address, "they could not be downloaded") from None
    return module


def _refuse_new_head(request: SourceRequest, config: Mapping[str, Any]) -> None:
    """Refuse what timm would do silently: random weights where there are no others."""
    if not (config.get("url") or config.get("hf_hub_id") or config.get("file")):
        raise libraries.no_pretrained(request.address, "timm has none for this model")
    wanted = request.classes
    if wanted is None and isinstance(given := request.model_args.get("num_classes"), int):
        wanted = given
    libraries.refuse_other_head(request.address, "timm", config["num_classes"], wanted)


def _read_preprocess(timm: ModuleType, module: Any) -> PreprocessSpec:
    facts = timm.data.resolve_model_data_config(module)
    # The config tells what the weights were trained with; the model knows what it was made for.
    built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
    height, width = built_for or facts["input_size"][1:]
    return PreprocessSpec(
        image_size=(height, width),
        interpolation=facts["interpolation"],
        crop_pct=facts["crop_pct"],
        crop_mode=facts["crop_mode"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )


def _imagenet_labels() -> tuple[str, ...]:
    """Return the first name of each of ImageNet-1k's classes."""
    info = require("timm.data", "the labels of ImageNet").ImageNetInfo("imagenet-1k")
    return tuple(description.split(",")[0] for description in info.label_descriptions())
