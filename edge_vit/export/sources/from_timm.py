"""``timm:NAME[.TAG]`` or ``timm:FOLDER``: timm's models, with the preprocessing that is theirs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edge_vit.errors import SpecError
from edge_vit.export.sources.libraries import hub_access, no_pretrained, quiet
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.timm_folder import TimmFolder, find_timm_folder, weights_in
from edge_vit.export.sources.timm_weights import fill_timm
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.declared import task_of_head


def open_timm(request: SourceRequest) -> TorchSource:
    """Return the timm model that `request` names, by name or by a folder that timm saved.

    Raises:
        SpecError: timm knows no such model or tag (the message has near ones), or refuses an
            argument.
        ArtifactError: the checkpoint cannot be read or does not fit.
        EdgeVitError: there are no pretrained weights to be had.
    """
    timm = require("timm", "exporting a timm: model")
    folder = find_timm_folder(request.target)
    if folder is not None:
        return open_timm_folder(request, folder)
    weights = ""
    with quiet("timm", "huggingface_hub"):
        config = _find_config(timm, request.target)
        module = _create(timm, request, config)
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
    """Return the model in a folder that timm saved, with its own classes, labels, preprocessing.

    Raises:
        SpecError: timm does not know its architecture, or it has no weights.
        ArtifactError: the weights cannot be read or do not fit.
    """
    timm = require("timm", "exporting a timm: model")
    weights = ""
    with quiet("timm", "huggingface_hub"):
        _find_config(timm, folder.architecture)
        module = _make(timm, request, folder.architecture, folder.model_args, folder.pretrained_cfg)
        if not request.random_weights:
            path = request.checkpoint or weights_in(folder.path)
            weights = fill_timm(timm, module, request, path)
        try:
            preprocess = _read_preprocess(timm, module)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise SpecError(
                f"{folder.path / 'config.json'}: its pretrained_cfg tells no preprocessing "
                f"({first_line(error)})"
            ) from None
    labels, tag = folder.labels, str(folder.pretrained_cfg.get("tag") or "")
    if not labels and module.num_classes == 1000 and tag.endswith("in1k"):
        labels = _imagenet_labels()
    return torch_source(
        request,
        module,
        name=folder.path.resolve().name
        if not request.target.startswith("hf-hub:")
        else folder.architecture,
        task=task_of_head(0 if module.num_classes == 0 else None),
        preprocess=request.refine(preprocess),
        labels=labels,
        licence=str(folder.pretrained_cfg.get("license") or ""),
        weights=weights,
    )


def _find_config(timm: ModuleType, name: str) -> Mapping[str, Any]:
    """Return timm's facts about `name`: its classes, its licence, where its weights are."""
    architecture, _, tag = name.partition(".")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise SpecError(f"timm has no model {architecture!r}, {hint}")
    if tag and name not in tagged:
        known = ", ".join(full.partition(".")[2] for full in tagged) or "none"
        raise SpecError(f"timm has no weights {tag!r} for {architecture}, known are {known}")
    config: Mapping[str, Any] = timm.models.get_pretrained_cfg(name).to_dict()
    return config


def _create(timm: ModuleType, request: SourceRequest, config: Mapping[str, Any]) -> nn.Module:
    """Return the model, with pretrained weights where wanted, else with seeded random ones."""
    if request.wants_pretrained:
        wanted: dict[str, object] = {"num_classes": request.classes}
        if request.classes is None:
            wanted = dict(request.model_args)
        _refuse_new_head(request, config, wanted.get("num_classes"))
    return _make(timm, request, request.target, {}, pretrained=request.wants_pretrained)


def _make(
    timm: ModuleType,
    request: SourceRequest,
    name: str,
    own_args: Mapping[str, Any],
    pretrained_cfg: Mapping[str, Any] | None = None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """Return timm's model `name`; what the user says goes over its `own_args`."""
    arguments = {**own_args, **request.model_args}
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    if request.image_size is not None:
        arguments["img_size"] = request.image_size
    torch.manual_seed(0)
    try:
        with hub_access() if pretrained else contextlib.nullcontext():
            module: nn.Module = timm.create_model(
                name,
                pretrained=pretrained,
                pretrained_cfg=None if pretrained_cfg is None else dict(pretrained_cfg),
                **arguments,
            )
    except OSError:
        raise no_pretrained(request.address, "they could not be downloaded") from None
    except Exception as error:  # arguments of any kind reach somebody else's code
        said = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        raise SpecError(f"timm cannot make {name} with {said}: {first_line(error)}") from None
    return module


def _refuse_new_head(request: SourceRequest, config: Mapping[str, Any], classes: object) -> None:
    """Refuse what timm would do silently: random weights where there are no others."""
    if not (config.get("url") or config.get("hf_hub_id") or config.get("file")):
        raise no_pretrained(request.address, "timm has none for this model")
    if classes not in (None, 0, config["num_classes"]):
        raise no_pretrained(
            request.address,
            f"timm's have {config['num_classes']} classes, {classes} were asked for",
        )


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
