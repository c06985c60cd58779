"""A checkpoint into a timm model: by its own names, or through the conversion of its family."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint import (
    Fit,
    Misfit,
    SourceGrid,
    StoredWeights,
    choose_weights,
    drop_weights,
    load_fit,
    read_stored,
    refuse_misfit,
    usable,
)
from edge_vit.export.sources.request import SourceRequest


def fill_timm(timm: ModuleType, module: Any, request: SourceRequest, path: Path) -> str:
    """Load the checkpoint at `path` into a timm `module`; return what was taken, in one line.

    Plain names first. Where they do not fit, the filter that timm has for the family's published
    files renames and reshapes them. Only an image size that the user asks for resamples positions.
    """
    stored = read_stored(path)
    heads = _unused_heads(module)
    fit = choose_weights(stored, module, request.weights_key, heads)
    resizes = request.image_size is not None or "img_size" in request.model_args
    grid = _source_grid(stored, module, request)
    fit = _with_positions(timm, module, fit, grid, resizes=resizes)
    if not fit.is_complete and (resizes or not fit.misfit.is_of_shapes):
        fit = _filtered(timm, module, fit, stored, request, heads, grid, resizes=resizes)
    if not fit.is_complete:
        hints = _argument_hints(fit.misfit)
        refuse_misfit(module, stored, fit, _size_hint(module, fit, grid), hints)
    return load_fit(module, stored, fit)


def _unused_heads(module: Any) -> tuple[str, ...]:
    """Return prefixes of the heads that a published model has and `module` was built without."""
    if module.num_classes != 0:
        return ()
    heads = module.pretrained_cfg.get("classifier") or ()
    return tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))


def _source_grid(stored: StoredWeights, module: Any, request: SourceRequest) -> SourceGrid | None:
    """Return what is known about the checkpoint's images; None for a model without a patch grid."""
    embed = getattr(module, "patch_embed", None)
    if embed is None or not hasattr(embed, "patch_size") or not hasattr(embed, "grid_size"):
        return None
    default = module.pretrained_cfg.get("input_size")
    return SourceGrid(
        stored.where,
        _pair(embed.patch_size),
        request.checkpoint_size,
        stored.sizes,
        tuple(default[1:]) if default else None,
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _positions(module: Any, weights: Mapping[str, Any]) -> tuple[Tensor, int] | None:
    """Return the learned positions in `weights` and how many of them are of no patch."""
    own, stored = getattr(module, "pos_embed", None), weights.get("pos_embed")
    if own is None or not isinstance(stored, Tensor) or stored.ndim != 3 or own.ndim != 3:
        return None
    if stored.shape[2] != own.shape[2] or not hasattr(module.patch_embed, "grid_size"):
        return None
    rows, columns = module.patch_embed.grid_size
    num_prefix = own.shape[1] - rows * columns
    return (stored, num_prefix) if 0 <= num_prefix < stored.shape[1] else None


def _with_positions(
    timm: ModuleType, module: Any, fit: Fit, grid: SourceGrid | None, *, resizes: bool
) -> Fit:
    """Return `fit` with its positions resampled from the grid that they were trained on.

    Without `resizes` they are left as they are, to be refused where their number differs; where
    only height and width are exchanged they are refused here.
    """
    found = _positions(module, fit.weights)
    if grid is None or found is None:
        return fit
    if any(name.startswith("patch_embed.") for name in fit.misfit.misshapen):
        return fit  # another model
    positions, num_prefix = found
    wanted = _pair(module.patch_embed.grid_size)
    num_patches = positions.shape[1] - num_prefix
    if not resizes and num_patches != wanted[0] * wanted[1]:
        return fit
    if not fit.misfit.is_of_shapes and _has_other_prefix(positions.shape[1], num_patches):
        return fit  # to be converted first
    source = grid.of(positions[0, num_prefix:])
    if source == wanted:
        return fit
    if not resizes:
        raise ArtifactError(
            f"{grid.where} has positions for {source[0]} x {source[1]} patches, the model for "
            f"{wanted[0]} x {wanted[1]}. Add --image-size "
            f"{source[0] * grid.patch[0]},{source[1] * grid.patch[1]}"
        )
    resampled = timm.layers.resample_abs_pos_embed(
        positions.float(), list(wanted), list(source), num_prefix_tokens=num_prefix
    )
    weights = {**fit.weights, "pos_embed": resampled}
    note = (
        f"positions resampled from {source[0]} x {source[1]} to {wanted[0]} x {wanted[1]} patches"
    )
    return fit.with_weights(module, weights, note)


def _has_other_prefix(num_tokens: int, num_patches: int) -> bool:
    """Return whether positions are of a square with another number of tokens before the patches.

    So it is in files of a family that keeps class and registers elsewhere than timm.
    """

    def is_square(count: int) -> bool:
        return count > 0 and math.isqrt(count) ** 2 == count

    return not is_square(num_patches) and any(is_square(num_tokens - n) for n in (0, 1, 2, 5))


def _size_hint(module: Any, fit: Fit, grid: SourceGrid | None) -> tuple[int, int] | None:
    """Return the image size that the checkpoint's positions are for, where they do not fit."""
    found = _positions(module, fit.weights)
    if grid is None or found is None or "pos_embed" not in fit.misfit.misshapen:
        return None
    positions, num_prefix = found
    return grid.size_of(positions[0, num_prefix:])


def _filtered(
    timm: ModuleType,
    module: Any,
    fit: Fit,
    stored: StoredWeights,
    request: SourceRequest,
    heads: tuple[str, ...],
    grid: SourceGrid | None,
    *,
    resizes: bool,
) -> Fit:
    """Return `fit` by the names that the family's filter gives, unchanged where none helps."""
    weights = {name: value for name, value in fit.weights.items() if isinstance(value, Tensor)}
    if len(weights) < len(fit.weights):
        usable(fit.weights, stored.where, module)
    beside = {  # filters know their family by such names, as DINOv2's by its mask
        name.removeprefix(fit.place): entry.value
        for name in fit.rest
        if (entry := stored.entries.get(name)) and isinstance(entry.value, Tensor)
    }
    givens = (weights, {**beside, **weights}) if beside else (weights,)
    best = fit
    for (name, convert), given in itertools.product(_filters(timm, module, request), givens):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # one of them prints
                converted = convert(dict(given), module)
        except Exception:  # a filter takes for granted what its own files hold
            continue
        if not isinstance(converted, Mapping):
            continue
        named = drop_weights(converted, heads).items()
        tensors = {key: value for key, value in named if isinstance(value, Tensor)}
        ready = weights.get("pos_embed")
        if ready is not None and ready.shape == getattr(tensors.get("pos_embed"), "shape", None):
            tensors["pos_embed"] = ready  # of the right grid already, whatever the filter assumed
        candidate = fit.with_weights(module, tensors, f"renamed by timm's {name}")
        if not candidate.is_complete:
            candidate = _with_positions(timm, module, candidate, grid, resizes=resizes)
        candidate = _without_resampling(module, candidate, weights, resizes=resizes)
        if candidate.misfit.count < best.misfit.count:
            best = candidate
    return best


def _filters(
    timm: ModuleType, module: Any, request: SourceRequest
) -> Iterator[tuple[str, Callable[[dict[str, Tensor], Any], Any]]]:
    """Yield the functions by which timm converts published files of the model's family."""
    architecture = str(module.pretrained_cfg.get("architecture") or request.target)
    kinds = (kind.__module__ for kind in type(module).__mro__)
    homes = [home for home in kinds if home.startswith("timm.")]
    if timm.is_model(architecture):
        homes.insert(0, timm.models.model_entrypoint(architecture).__module__)
    for home in dict.fromkeys(homes):
        for name, function in vars(sys.modules[home]).items():
            if not (name.endswith("filter_fn") or name.startswith("checkpoint_filter_fn")):
                continue
            known = inspect.signature(function).parameters
            if "model" in known:
                options = {"adapt_layer_scale": True} if "adapt_layer_scale" in known else {}
                filtered = functools.partial(function, **options)
                yield f"{home.rpartition('.')[2]} filter", filtered


def _without_resampling(
    module: Any, fit: Fit, stored: Mapping[str, Tensor], *, resizes: bool
) -> Fit:
    """Return `fit` with what a filter resampled unasked reported as misshapen.

    Patches are never resampled: another patch size is another model.
    """
    changed = {}
    for name, value in fit.weights.items():
        before = stored.get(name)
        if not isinstance(value, Tensor) or before is None or before.numel() == value.numel():
            continue
        if value.is_floating_point() and not _is_end_of(value, before):
            changed[name] = (tuple(before.shape), tuple(value.shape))
    if "pos_embed" in fit.weights and "pos_embed" not in stored:
        positions = fit.weights["pos_embed"]
        lengths = {value.shape[-2] for value in stored.values() if value.ndim in (2, 3)}
        if isinstance(positions, Tensor) and positions.shape[-2] not in lengths:
            changed["pos_embed"] = ((), tuple(positions.shape))
    unasked = {n: shapes for n, shapes in changed.items() if not resizes or len(shapes[1]) == 4}
    misfit = replace(fit.misfit, misshapen={**fit.misfit.misshapen, **unasked})
    notes = fit.notes
    if changed and not unasked:
        notes = (*notes, f"resampled to the image size: {', '.join(list(changed)[:4])}")
    return replace(fit, misfit=misfit, notes=notes)


def _is_end_of(value: Tensor, before: Tensor) -> bool:
    """Return whether `value` is `before` without its first tokens: nothing was resampled."""
    if value.ndim != 3 or before.ndim != 3 or value.shape[1] > before.shape[1]:
        return False
    return torch.equal(value, before[:, before.shape[1] - value.shape[1] :].to(value.dtype))


def _argument_hints(misfit: Misfit) -> list[str]:
    """Return the constructor's arguments with which the checkpoint would fit, where shapes tell."""
    if not misfit.is_of_shapes:
        return []
    misshapen, table = misfit.misshapen, "relative_position_bias_table"
    tables = [got for name, (got, _) in misshapen.items() if name.endswith(table)]
    kernels = [got for got, wanted in misshapen.values() if len(got) == len(wanted) == 4]
    hints = []
    if kernels and kernels[0][2] == kernels[0][3]:
        hints.append(f"--model-arg patch_size={kernels[0][2]}")
    if len(tables) == len(misshapen) and math.isqrt(tables[0][0]) ** 2 == tables[0][0]:
        hints.append(f"--model-arg window_size={(math.isqrt(tables[0][0]) + 1) // 2}")
    return hints
