"""Weights from a file that anyone may have made: no code in it runs, and all of it fits or none."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from edge_vit.errors import ArtifactError
from edge_vit.export.misfit import Misfit

# What training scripts call the weights inside a checkpoint. An averaged copy is taken only where
# it is alone.
_NESTS = ("state_dict", "model", "state_dict_ema", "model_ema")
# What wrappers put before every name: DistributedDataParallel, torch.compile, Lightning.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# Not weights: the step counter of torch.optim.swa_utils.AveragedModel.
_COUNTERS = ("n_averaged",)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors in the file at `path` by name, on the CPU.

    Safetensors, or what `torch.save` wrote, read with ``weights_only=True``: code in a pickle is
    never run. The dictionaries and name prefixes that training scripts wrap weights in are taken
    off.

    Raises:
        ArtifactError: there is no such file, it is corrupt, holds code or no weights, or a weight
            is not finite.
    """
    if not path.is_file():
        raise ArtifactError(f"checkpoint {path}: no such file")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file opens with the length of its header, 8 bytes, and then the header, a JSON
    # object.
    content = _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)
    weights = _without_wrappers(_unwrap(content, path))
    refuse_nonfinite(weights, f"checkpoint {path}")
    return weights


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(_corrupt(path, error)) from None


def _read_torch(path: Path) -> Any:
    try:
        # timm's and DeiT's training scripts keep their options beside the weights: a Namespace is
        # plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        code = re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:class|global) (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise ArtifactError(
                f"checkpoint {path} wants to run code ({code[1] or code[2]}) and was refused. Save "
                "the weights "
                "alone: torch.save(model.state_dict(), FILE)"
            ) from None
        raise ArtifactError(_corrupt(path, error)) from None


def _corrupt(path: Path, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return (
        f"checkpoint {path} is corrupt or truncated, expected safetensors or a file that "
        "torch.save wrote "
        f"({reason[:100]})"
    )


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors in `content`, out of however many dictionaries they are nested in."""
    while isinstance(content, Mapping):
        nests = [content[key] for key in _NESTS if isinstance(content.get(key), Mapping)]
        if not nests:
            break
        content = nests[0]
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise ArtifactError(f"checkpoint {path} holds no tensors by name, found {found}")
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and name not in _COUNTERS
    }
    if not tensors:
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise ArtifactError(f"checkpoint {path} holds no weights, found {found}")
    return tensors


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPERS * 2:  # a compiled model may be wrapped again
        if all(name.startswith(prefix) for name in weights):
            weights = without_prefix(weights, prefix)
    return weights


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return `weights` with `prefix` taken off every name."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def drop_weights(weights: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Return `weights` without those whose name starts with one of `prefixes`."""
    unwanted = tuple(prefixes)
    return {name: tensor for name, tensor in weights.items() if not name.startswith(unwanted)}


def refuse_nonfinite(weights: Mapping[str, Tensor], where: str) -> None:
    """Check that every number is finite.

    Raises:
        ArtifactError: one is not; names the first such tensor and how many there are.
    """
    bad = [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if bad:
        count = int((~weights[bad[0]].isfinite()).sum())
        others = f", and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise ArtifactError(
            f"{where} holds NaN or infinity: {count} of {weights[bad[0]].numel()} values of "
            f"{bad[0]}{others}. "
            "Take an earlier checkpoint"
        )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights` into `module`, every one of them and nothing else.

    Args:
        module: what to fill.
        weights: by the module's own names.
        where: how the message names the weights, such as ``"checkpoint best.safetensors"``.

    Raises:
        ArtifactError: they do not fit; lists what is missing, unexpected and misshapen, and what to
            type.
    """
    misfit = Misfit.between(module, weights)
    misfit.refuse(where, module)
    module.load_state_dict(dict(weights))
