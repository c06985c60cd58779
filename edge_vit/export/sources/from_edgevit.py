"""``edgevit:NAME`` or ``edgevit:FILE.safetensors``: the reference model, all in its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import drop_weights
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, torch_source
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.declared import task_of_head
from edge_vit.training.checkpoint import Checkpoint, build_model, load_checkpoint
from edge_vit.training.vit import PRESETS, create_model, find_config

_HALVES = (0.5, 0.5, 0.5)


def open_edgevit(request: SourceRequest) -> TorchSource:
    """Return the model that `edgevit finetune` left in a file, or a preset with random weights."""
    request.refuse_options("has it in its checkpoint", "weights_key", "checkpoint_size")
    is_file = request.target.endswith(".safetensors")
    if request.random_weights and not is_file:
        return _open_random(request)
    if is_file:
        request.refuse_options("is a checkpoint itself", "random_weights", "checkpoint")
    path = Path(request.target) if is_file else request.checkpoint
    if path is None:
        find_config(request.target)
        file = f"{request.target}.safetensors"
        raise SpecError(
            f"{request.address} needs weights. Run: edgevit finetune {request.target} --data DIR "
            f"-o {file}, and add --checkpoint {file}"
        )
    request.refuse_options("has its arguments in its checkpoint", "model_args")
    checkpoint = load_checkpoint(path)
    if not is_file:
        _refuse_other_model(request, path, checkpoint)
    if request.classes == 0:
        config = replace(checkpoint.config, num_classes=0)
        tensors = drop_weights(checkpoint.tensors, ["head."])
        checkpoint = replace(checkpoint, config=config, labels=(), tensors=tensors)
    return torch_source(
        request,
        build_model(checkpoint, request.square_side()),
        name=path.stem if is_file else request.target,
        task=task_of_head(checkpoint.config.num_classes),
        preprocess=request.refine(checkpoint.preprocess),
        labels=checkpoint.labels,
    )


def _open_random(request: SourceRequest) -> TorchSource:
    arguments = dict(request.model_args)
    if request.classes is not None:
        arguments["num_classes"] = request.classes
    side = request.square_side()
    if side is not None:
        arguments["image_size"] = side
    torch.manual_seed(0)
    module = create_model(request.target, **arguments)
    size = module.config.image_size
    return torch_source(
        request,
        module,
        name=request.target,
        task=task_of_head(module.config.num_classes),
        preprocess=request.refine(PreprocessSpec((size, size), mean=_HALVES, std=_HALVES)),
    )


def _refuse_other_model(request: SourceRequest, path: Path, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint of another architecture than the preset that the user named."""
    preset = find_config(request.target)
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        wanted, got = getattr(preset, name), getattr(checkpoint.config, name)
        if wanted != got:
            raise SpecError(
                f"checkpoint {path} has {name} {got}, {request.target} has {wanted}. "
                f"Export it as edgevit:{path}, or name its model: {', '.join(PRESETS)}"
            )
