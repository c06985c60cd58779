"""``hf:FOLDER_OR_NAME``: a vision model of transformers, from a local folder or the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_vit.errors import ArtifactError, EdgeVitError, SpecError
from edge_vit.export.checkpoint import StoredWeights, choose_weights, describe, read_stored, usable
from edge_vit.export.checkpoint.misfit import Misfit
from edge_vit.export.checkpoint.positions import SourceGrid
from edge_vit.export.checkpoint.stored import WEIGHT_FILES, find_shards
from edge_vit.export.sources.from_timm import open_timm_folder
from edge_vit.export.sources.huggingface_auto import (
    NamedChoice,
    choose_named,
    explain_refusal,
    find_family,
)
from edge_vit.export.sources.huggingface_images import read_preprocess
from edge_vit.export.sources.huggingface_maps import (
    DEPTHS,
    OWN_ATTENTION,
    SEGMENTERS,
    choose_map_class,
    choose_segmenter,
    fix_neck,
    usual_size,
)
from edge_vit.export.sources.huggingface_models import (
    DETECTORS,
    Choice,
    Family,
    attend,
    attention_of,
    choose_class,
    choose_pair,
    fix_grid,
    is_pair,
)
from edge_vit.export.sources.huggingface_text import make_zero_shot
from edge_vit.export.sources.libraries import hub_access, no_pretrained, quiet
from edge_vit.export.sources.map_outputs import whole_image
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.timm_folder import (
    is_timm_config,
    newest_snapshot,
    read_config,
    read_timm_folder,
)
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import CLASSES

_ATTENTION = "edge_vit"
# Parts of a checkpoint that no image passes through on its way to the answer.
_UNUSED = ("pooler.", "mask_token")
_TEXT_TOWER = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
# The same of V-JEPA 2, whose classifier reads what it pools
_UNUSED_OF = {"vjepa2": ("predictor.", "mask_token")}


def open_huggingface(request: SourceRequest) -> TorchSource:
    """Return the transformers model that `request` names; its own code is never run."""
    transformers = require("transformers", "exporting an hf: model")
    place, is_local = _find_place(request)
    if is_local:
        if is_timm_config(read_config(Path(place))):
            request.refuse_prompts()
            return open_timm_folder(request, read_timm_folder(Path(place)))
        _check_files(Path(place), request)
    with (
        quiet("transformers", "huggingface_hub"),
        _no_progress_bar(transformers),
        contextlib.nullcontext() if is_local else hub_access(),
    ):
        config = _read_config(transformers, request, place, is_local)
        family = find_family(transformers, config)
        clip = family.clip(config) if family else None
        segmenter = choose_segmenter(config, request.task, request.address)
        mapped = segmenter or choose_map_class(config, request.task)
        named = None
        if mapped is None:
            named = choose_named(transformers, config, family, request.task, request.address)
        is_map = mapped or (named is not None and task_named(named.task).gives_map)
        usual = usual_size(config) if is_map else None
        preprocess = read_preprocess(transformers, request, place, is_local, clip, usual)
        if mapped is not None:
            choice = mapped
        elif request.prompts:
            if named is not None and named.feature == "tower":
                choice = replace(named, task=CLASSES, activation="softmax")
            else:
                choice = choose_pair(config, request.address)
        elif request.labels and request.wants_pretrained and is_pair(config):
            raise SpecError(
                f"--labels: {request.address} has no classifier, it compares images with texts. "
                "Add --prompt 'a photo of a {}' for a text of each label"
            )
        else:
            choice = named or choose_class(config, family, request.classes, request.address)
        if is_map:
            preprocess = whole_image(request, preprocess)  # a crop would lose pixels
        model, weights = _create(transformers, request, choice, place)
    sizes = family.sizes if family else "free"  # detectors interpolate by themselves
    # DINOv2 interpolates its positions to whatever image comes: done here, they are constant.
    if sizes == "interpolated" and (request.image_size or config.model_type.startswith("dinov2")):
        _fix_positions(model, preprocess.image_size)
    elif sizes == "fixed":
        assert family is not None
        _refuse_other_size(request, model, preprocess.image_size, family)
    elif sizes == "patches":
        fix_grid(model, preprocess.image_size, request.address)
    if config.model_type in DEPTHS and hasattr(model, "neck"):
        backbone = getattr(model, "backbone", None)
        if backbone is not None and backbone.config.model_type.startswith("dinov2"):
            _fix_positions(backbone, preprocess.image_size)
        fix_neck(model, preprocess.image_size)
    text = None
    if request.prompts:
        with quiet("transformers", "huggingface_hub"):
            module, text = make_zero_shot(transformers, request, model, choice, place)
    else:
        module = choice.traceable(model)
    if named is not None and task_named(named.task).gives_map:
        request = replace(request, task=named.task)
    try:
        return torch_source(
            request,
            module,
            name=Path(place).name,
            task=choice.task,
            preprocess=preprocess,
            labels=_read_labels(config),
            weights=weights,
            outputs=choice.outputs,
            activation=choice.activation,
            text=text,
        )
    except SpecError as error:
        if named is None or error.__cause__ is None:
            raise
        raise SpecError(explain_refusal(model, request.address, error)) from None


def _find_place(request: SourceRequest) -> tuple[str, bool]:
    """Return the folder or the hub name, and whether it is a folder."""
    path = Path(request.target).expanduser()
    if path.is_dir():
        return str(newest_snapshot(path).resolve()), True
    if path.is_absolute() or request.target.startswith((".", "~")) or request.target.count("/") > 1:
        raise SpecError(f"{request.address}: no such folder, expected one with a config.json")
    return request.target, False


def _check_files(folder: Path, request: SourceRequest) -> None:
    """Refuse a folder whose weights are not all there, or are Git LFS pointers."""
    refuse_lfs_pointer(folder / "preprocessor_config.json", SpecError)
    if request.wants_pretrained:
        for name in WEIGHT_FILES:
            refuse_lfs_pointer(folder / name)
            if name.endswith(".index.json") and (folder / name).is_file():
                find_shards(folder / name)


@contextlib.contextmanager
def _no_progress_bar(transformers: ModuleType) -> Any:
    logging = transformers.utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _read_config(
    transformers: ModuleType, request: SourceRequest, place: str, is_local: bool
) -> Any:
    arguments = dict(request.model_args)
    if request.classes and not request.prompts:
        arguments["num_labels"] = request.classes
    try:
        config, unknown = transformers.AutoConfig.from_pretrained(
            place,
            trust_remote_code=False,
            local_files_only=is_local,
            return_unused_kwargs=True,
            **arguments,
        )
    except OSError as error:
        if is_local:
            raise SpecError(f"{request.address}: {first_line(error)}") from None
        raise EdgeVitError(
            f"{request.address} is neither a folder here nor a model that the hub gives "
            f"({first_line(error)}). Download it where there is a network and "
            "export hf:FOLDER"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise SpecError(f"{request.address}: {first_line(error)}") from None
    unknown = set(unknown) & set(request.model_args)
    if unknown:
        raise SpecError(
            f"{request.address} has no option {sorted(unknown)[0]!r}, see its config.json"
        )
    if config.model_type == "vit_mae":  # a ViT, with a decoder for what is masked in pretraining
        own = {**config.to_dict(), "model_type": "vit"}
        return transformers.ViTConfig.from_dict(own)
    if config.model_type == "timm_wrapper":
        raise SpecError(
            f"{request.address} is a model of timm. Export it as timm:hf-hub:{request.target}"
        )
    return config


def _create(
    transformers: ModuleType, request: SourceRequest, choice: Choice, place: str
) -> tuple[Any, str]:
    """Return the model of `choice`, and what was taken out of the user's checkpoint."""
    model_class, config = getattr(transformers, choice.class_name), choice.config
    task = task_named(choice.task)
    transformers.AttentionInterface.register(_ATTENTION, attend)
    is_known = config.model_type not in OWN_ATTENTION and not isinstance(choice, NamedChoice)
    attention = _ATTENTION if is_known else "eager"
    options = {"config": config, "attn_implementation": attention_of(config, attention)}
    if request.random_weights:
        torch.manual_seed(0)
        model = model_class._from_config(**options)
        if config.model_type in (*DETECTORS, *SEGMENTERS, *DEPTHS):
            _keep_image_visible(model)
        return model, ""
    taken = ""
    where = f"checkpoint {place}"
    if request.checkpoint is not None:
        where = f"checkpoint {request.checkpoint}"
        stored = read_stored(request.checkpoint)
        with torch.device("meta"):
            outline = model_class(config)
        fit = choose_weights(stored, outline, request.weights_key)
        weights = usable(fit.weights, where, outline)
        if request.image_size is not None:
            _adopt_image_size(config, weights, request, stored)
        options["state_dict"] = weights
        taken = describe(fit, weights)
    try:
        model, report = model_class.from_pretrained(
            None if request.checkpoint else place,
            local_files_only=Path(place).is_dir(),
            weights_only=True,
            ignore_mismatched_sizes=True,  # the report has them: refused below
            output_loading_info=True,
            **options,
        )
    except OSError as error:
        if Path(place).is_dir():
            raise ArtifactError(f"{where}: {first_line(error)}") from None
        raise no_pretrained(request.address, "they could not be downloaded") from None
    except Exception as error:  # a damaged or hostile weight file can raise anything
        raise ArtifactError(f"{where} cannot be read: {first_line(error)}") from None
    unused: tuple[str, ...] = _UNUSED_OF.get(config.model_type, _UNUSED)
    if not task.has_head:  # other heads, and the decoders of pretraining
        unused = (*unused, *_other_parts(report, model))
    unused = (*unused, *(() if request.prompts else _TEXT_TOWER))
    if request.classes == 0:
        unused = (*unused, "pooler.")
    _read_report(report, model, unused).refuse(where, model)
    return model, taken


def _keep_image_visible(model: nn.Module) -> None:
    """Let the convolutions of an untrained detector pass the image on.

    As they are made, nothing of it is left in the deepest features: every query then has the same
    score, and which of them are chosen is up to rounding.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # RT-DETR v2's begin at 0.01


def _read_report(report: Mapping[str, Any], model: nn.Module, unused: tuple[str, ...]) -> Misfit:
    """Return transformers' loading report as a `Misfit`, without the parts that are `unused`."""
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unexpected = (
        {name: ours.get(name, ()) for name in sorted(report[kind]) if not _has_any(name, unused)}
        for kind in ("missing_keys", "unexpected_keys")
    )
    return Misfit(
        missing=missing,
        unexpected=unexpected,
        misshapen={
            name: (tuple(got), tuple(wanted)) for name, got, wanted in report["mismatched_keys"]
        },
    )


def _other_parts(report: Mapping[str, Any], model: nn.Module) -> set[str]:
    """Return what the names of weights begin with that lie in no part of `model`."""
    own = {model.base_model_prefix, *(name for name, _ in model.named_children())}
    return {
        f"{root}." for name in report["unexpected_keys"] if (root := name.split(".")[0]) not in own
    }


def _has_any(name: str, parts: Sequence[str]) -> bool:
    return any(part in name for part in parts)


def _adopt_image_size(
    config: Any, weights: Mapping[str, Tensor], request: SourceRequest, stored: StoredWeights
) -> None:
    """Make the model for the image size of `weights`; they are interpolated from there."""
    patch, default = _pair(config.patch_size), _pair(config.image_size)
    grid = SourceGrid(stored.where, patch, request.checkpoint_size, stored.sizes, default)
    # The registers of DINOv2 have no position.
    registers = getattr(config, "num_register_tokens", 0)
    own = {"deit": 2, "ijepa": 0, "dinov2_with_registers": 1}
    num_prefix = own.get(config.model_type, 1 + registers)
    for name, tensor in weights.items():
        if name.endswith("embeddings.position_embeddings") and tensor.ndim == 3:
            height, width = grid.size_of(tensor[0, num_prefix:])
            config.image_size = height if height == width else [height, width]


def _pair(side: Any) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))


def _fix_positions(model: Any, image_size: tuple[int, int]) -> None:
    """Replace the positions by what transformers' own code interpolates to `image_size`."""
    embeddings = getattr(model, model.base_model_prefix, model).embeddings
    patches, positions = embeddings.patch_embeddings, embeddings.position_embeddings.detach()
    num_prefix = positions.shape[1] - patches.num_patches
    patch = _pair(patches.patch_size)
    rows, columns = (side // p for side, p in zip(image_size, patch, strict=True))
    grid = [side // p for side, p in zip(_pair(patches.image_size), patch, strict=True)]
    if grid[0] == grid[1]:
        tokens = positions.new_zeros(1, num_prefix + rows * columns, model.config.hidden_size)
        with torch.no_grad():
            resized = embeddings.interpolate_pos_encoding(tokens, *image_size).clone()
    else:  # transformers takes every grid for a square
        prefix, body = positions[:, :num_prefix], positions[:, num_prefix:]
        image = body.reshape(1, *grid, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=(rows, columns), mode="bicubic", align_corners=False)
        body = image.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
        resized = torch.cat((prefix, body), dim=1)
    embeddings.position_embeddings = nn.Parameter(resized)
    embeddings.image_size = patches.image_size = image_size
    patches.num_patches = rows * columns
    embeddings.interpolate_pos_encoding = lambda *_: embeddings.position_embeddings


def _refuse_other_size(
    request: SourceRequest, model: Any, image_size: tuple[int, int], family: Family
) -> None:
    own = _pair(getattr(getattr(model.config, "vision_config", model.config), family.size))
    if image_size != own:
        side = own[0] if own[0] == own[1] else f"{own[0]},{own[1]}"
        raise SpecError(
            f"{request.address}: got images of {image_size[0]} x {image_size[1]} pixels, but "
            f"positions of {model.config.model_type} are for {side} alone. "
            f"Add --image-size {side}"
        )


def _read_labels(config: Any) -> tuple[str, ...]:
    """Return the names in the config, none where they are the default ``LABEL_0``, …."""
    named = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    labels = tuple(named.get(index, "") for index in range(len(named)))
    is_default = labels == tuple(f"LABEL_{index}" for index in range(len(labels)))
    return () if is_default or "" in labels else labels
