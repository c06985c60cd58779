"""``torchvision:NAME[.WEIGHTS]``: classifiers, with the transforms and labels of their weights."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError, did_you_mean
from edge_vit.export.checkpoint import Fit, Misfit, choose_weights, load_fit, read_stored
from edge_vit.export.sources import libraries
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.declared import task_of_head


def open_torchvision(request: SourceRequest) -> TorchSource:
    """Return the torchvision model that `request` names."""
    library = require("torchvision.models", "exporting a torchvision: model")
    name = request.target.partition(".")[0]
    entry = _find_weights(library, request.target)
    preprocess = request.refine(_read_preprocess(request, entry.transforms()))
    with libraries.quiet():
        module = _create(library, request, name, preprocess.image_size)
    weights = "" if request.random_weights else _load(library, request, module, entry)
    return torch_source(
        request,
        module,
        name=request.target,
        task=task_of_head(request.classes),
        preprocess=preprocess,
        labels=tuple(entry.meta["categories"]),
        licence=entry.meta.get("license", "") if request.wants_pretrained else "",
        weights=weights if request.checkpoint else "",
    )


def _find_weights(library: ModuleType, target: str) -> Any:
    """Return torchvision's entry for `target`: address of the weights, transforms, labels."""
    name, _, tag = target.partition(".")
    try:
        tags = library.get_model_weights(name).__members__
    except ValueError:
        hint = did_you_mean(name, library.list_models(module=library), 3)
        hint = hint or ", see torchvision.models.list_models()"
        raise SpecError(f"torchvision has no model {name!r}{hint}") from None
    if tag and tag not in tags:
        raise SpecError(
            f"torchvision has no weights {tag!r} for {name}, known are {', '.join(tags)}"
        )
    return tags[tag or "DEFAULT"]


def _read_preprocess(request: SourceRequest, transforms: Any) -> PreprocessSpec:
    try:
        (crop,), (resize,) = transforms.crop_size, transforms.resize_size
    except (AttributeError, ValueError):
        raise SpecError(
            f"{request.address} does not classify images, expected a model that does"
        ) from None
    return PreprocessSpec(
        image_size=(crop, crop),
        interpolation=transforms.interpolation.value,
        crop_pct=crop / resize,
        crop_mode="center",
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _create(
    library: ModuleType, request: SourceRequest, name: str, image_size: tuple[int, int]
) -> Any:
    arguments = dict(request.model_args)
    if request.classes:
        arguments["num_classes"] = request.classes
    builder = library.get_model_builder(name)
    promise = inspect.signature(builder, eval_str=True).return_annotation
    if promise is library.VisionTransformer:  # made for one image size
        arguments["image_size"] = replace(request, image_size=image_size).square_side()
    module: Any = libraries.make("torchvision", library.get_model, name, arguments, weights=None)
    if not isinstance(module, library.VisionTransformer):
        if request.classes == 0:
            raise SpecError(f"--num-classes 0: edge-vit cannot take the head off {request.address}")
        return module
    if request.classes == 0:
        module.heads = nn.Identity()
    # torchvision starts the head at zero: with random weights, all images would score the same.
    for parameter in module.heads.parameters():
        nn.init.trunc_normal_(parameter, std=0.02)
    return module


def _load(library: ModuleType, request: SourceRequest, module: Any, entry: Any) -> str:
    """Load the checkpoint, or torchvision's own; return what was taken, in one line."""
    stored = read_stored(request.checkpoint or _download(request, entry))
    unused = ["heads."] if request.classes == 0 else []
    fit = choose_weights(stored, module, request.weights_key, unused)
    if request.image_size is not None:
        fit = _resize_positions(library, module, fit)
    return load_fit(module, stored, fit)


def _resize_positions(library: ModuleType, module: Any, fit: Fit) -> Fit:
    """Return `fit` with square positions interpolated to the model's image size."""
    positions = fit.weights.get("encoder.pos_embedding")
    if not isinstance(module, library.VisionTransformer) or not isinstance(positions, Tensor):
        return fit
    if positions.ndim != 3 or math.isqrt(positions.shape[1] - 1) ** 2 != positions.shape[1] - 1:
        return fit
    resized = library.vision_transformer.interpolate_embeddings(
        module.image_size, module.patch_size, dict(fit.weights)
    )
    return replace(fit, weights=resized, misfit=Misfit.between(module, resized))


def _download(request: SourceRequest, entry: Any) -> Path:
    """Return the file with torchvision's own weights, from torch's cache where it is there."""
    own = len(entry.meta["categories"])
    libraries.refuse_other_head(request.address, "torchvision", own, request.classes)
    address = urlsplit(entry.url)
    file_name = Path(address.path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if path.is_file():
        return path
    if not libraries.is_reachable(entry.url):
        raise libraries.no_pretrained(request.address, f"{address.netloc} cannot be reached")
    digest = re.search(r"-([0-9a-f]{8,})\.", file_name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(entry.url, str(path), digest[1] if digest else None)
    except (OSError, RuntimeError) as error:
        raise libraries.no_pretrained(
            request.address, f"download failed: {first_line(error)}"
        ) from None
    return path
