"""Tensors of a checkpoint into a model: all of them or none, in a form that float32 can take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint.fit import Fit, choose_weights
from edge_vit.export.checkpoint.misfit import Misfit
from edge_vit.export.checkpoint.stored import StoredWeights, read_stored
from edge_vit.export.checkpoint.unpickle import Unusable

_HALVES = (torch.float16, torch.bfloat16)


def fill(module: nn.Module, path: Path, key: str | None = None) -> str:
    """Load what fits `module` out of the checkpoint at `path`; return what was taken, in one line.

    `key` is that of `choose_weights`.
    """
    stored = read_stored(path)
    return load_fit(module, stored, choose_weights(stored, module, key))


def load_fit(module: nn.Module, stored: StoredWeights, fit: Fit) -> str:
    """Load `fit` into `module`; return what was taken, in one line."""
    refuse_misfit(module, stored, fit)
    weights = usable(fit.weights, stored.where, module)
    load_weights(module, weights, stored.where)
    return describe(fit, weights)


def refuse_misfit(
    module: nn.Module,
    stored: StoredWeights,
    fit: Fit,
    image_size: tuple[int, int] | None = None,
    hints: Iterable[str] = (),
) -> None:
    """Refuse a `fit` that `module` cannot take; the rest is that of `Misfit.refuse`."""
    where = stored.where
    if not fit.is_complete and any(".lora_" in name for name in stored.entries):
        raise ArtifactError(
            f"{where} holds LoRA adapters, expected a whole model's weights. Merge them first, "
            "with peft: model.merge_and_unload()"
        )
    if fit.misfit.missing and fit.place and fit.rest:
        more = f" and {len(fit.rest) - 3} more" if len(fit.rest) > 3 else ""
        where = f"{where} (at {fit.key}; beside it {', '.join(fit.rest[:3])}{more})"
    fit.misfit.refuse(where, module, image_size, hints)


def describe(fit: Fit, weights: Mapping[str, Tensor]) -> str:
    """Return in one line which of a checkpoint's weights were taken, and what was done to them."""
    dtypes = {str(tensor.dtype)[6:] for tensor in weights.values() if tensor.dtype in _HALVES}
    notes = [*fit.notes] or [f"all {len(weights)} tensors of the checkpoint"]
    if dtypes:
        notes.append(f"stored as {' and '.join(sorted(dtypes))}, loaded as float32")
    return "; ".join(notes)


def usable(
    weights: Mapping[str, Tensor | Unusable], where: str, module: nn.Module
) -> dict[str, Tensor]:
    """Return `weights` after each has been found to be plain numbers that float32 can hold."""
    wanted = module.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        kind = _unusable_kind(value, wanted.get(name))
        if kind:
            raise ArtifactError(
                f"{where}: {name} is {kind}, expected plain floating-point weights. Save the "
                "model as it was before quantization or conversion"
            )
        assert isinstance(value, Tensor)
        found[name] = value
    refuse_nonfinite(found, where)
    return found


def _unusable_kind(value: Tensor | Unusable, wanted: Tensor | None) -> str:
    """Return what keeps `value` from being a weight; empty where nothing does."""
    if isinstance(value, Unusable):
        return value.kind
    if value.is_sparse or value.is_quantized or value.is_meta:
        return "sparse, quantized or without values"
    if value.dtype.is_floating_point and value.dtype.itemsize == 1:
        return f"{str(value.dtype)[6:]}, whose scales lie elsewhere"
    is_float = wanted is not None and wanted.is_floating_point()
    if is_float and not value.is_floating_point():
        return f"{str(value.dtype)[6:]} where the model has floating point"
    return ""


def drop_weights(weights: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Return `weights` without those whose name starts with one of `prefixes`."""
    unwanted = tuple(prefixes)
    return {name: tensor for name, tensor in weights.items() if not name.startswith(unwanted)}


def refuse_nonfinite(weights: Mapping[str, Tensor], where: str) -> None:
    """Check that every number is finite."""
    bad = [n for n, t in weights.items() if t.is_floating_point() and not _is_finite(t)]
    if bad:
        first = weights[bad[0]]
        count = int((~first.isfinite()).sum())
        others = f", and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise ArtifactError(
            f"{where} holds NaN or infinity: {count} of {first.numel()} values of {bad[0]}{others}."
            " Take an earlier checkpoint"
        )


def _is_finite(tensor: Tensor) -> bool:
    # A finite sum says it in a tenth of the time; one that overflows says nothing.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights`, by the module's own names, into `module`, every one and nothing else.

    `where` is how the message names them, such as ``"checkpoint best.safetensors"``.
    """
    Misfit.between(module, weights).refuse(where, module)
    module.load_state_dict(dict(weights), strict=False)  # counters alone may be missing
