"""``timm:NAME[.TAG]``: timm's models and weights, with the preprocessing that is theirs."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import drop_weights, load_weights, read_weights
from edge_vit.export.misfit import grid_side
from edge_vit.export.sources.libraries import hub_access, no_pretrained, quiet
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec


def open_timm(request: SourceRequest) -> TorchSource:
    """Return the timm model that `request` names.

    Raises:
        SpecError: timm knows no such model or tag (the message has near ones), or refuses an
            argument.
        ArtifactError: the checkpoint cannot be read or does not fit.
        EdgeVitError: there are no pretrained weights to be had.
    """
    timm = require("timm", "exporting a timm: model")
    with quiet("timm", "huggingface_hub"):
        config = _find_config(timm, request.target)
        module = _create(timm, request, config)
        if request.checkpoint is not None:
            weights = _as_timm_names(timm, read_weights(request.checkpoint), module, request)
            load_weights(module, weights, f"checkpoint {request.checkpoint}")
        preprocess = _read_preprocess(timm, module)
    return torch_source(
        request,
        module,
        name=request.target,
        task="features" if module.num_classes == 0 else "classification",
        preprocess=request.refine(preprocess),
        labels=_imagenet_labels() if module.num_classes == config["num_classes"] == 1000 else (),
        licence=config.get("license") or "" if request.wants_pretrained else "",
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
    arguments = dict(request.model_args)
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    if request.image_size is not None:
        arguments["img_size"] = request.image_size
    if request.wants_pretrained:
        _refuse_new_head(request, config, arguments.get("num_classes"))
    torch.manual_seed(0)
    try:
        with hub_access() if request.wants_pretrained else contextlib.nullcontext():
            module: nn.Module = timm.create_model(
                request.target, pretrained=request.wants_pretrained, **arguments
            )
    except OSError:
        raise no_pretrained(request.address, "they could not be downloaded") from None
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        said = ", ".join(f"{key}={value}" for key, value in arguments.items()) or "no arguments"
        raise SpecError(
            f"timm cannot make {request.target} with {said}: {first_line(error)}"
        ) from None
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


def _as_timm_names(
    timm: ModuleType, weights: dict[str, Tensor], module: Any, request: SourceRequest
) -> Mapping[str, Tensor]:
    """Return `weights` by the names of `module`, positions interpolated where asked for.

    timm's own filter reads the files of DeiT, DINOv2 and others, and resamples whatever does not
    fit. A model of another image or patch size that nobody asked for is left as it is, to be
    refused.
    """
    if module.num_classes == 0:
        heads = module.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else heads
        weights = drop_weights(weights, [f"{head}." for head in heads])
    if not isinstance(module, timm.models.VisionTransformer):
        return weights
    resizes = request.image_size is not None or "img_size" in request.model_args
    if not _same_patches(weights, module, may_resize=resizes):
        return weights
    renamed: Mapping[str, Tensor] = timm.models.vision_transformer.checkpoint_filter_fn(
        weights, module, adapt_layer_scale=True
    )
    return renamed


def _same_patches(weights: Mapping[str, Tensor], module: Any, *, may_resize: bool) -> bool:
    kernel = weights.get("patch_embed.proj.weight")
    if (
        kernel is not None
        and kernel.ndim == 4
        and kernel.shape != module.patch_embed.proj.weight.shape
    ):
        return False
    positions = weights.get("pos_embed")
    if may_resize or positions is None or module.pos_embed is None or positions.ndim != 3:
        return True
    return grid_side(positions.shape[1]) == grid_side(module.pos_embed.shape[1])


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
