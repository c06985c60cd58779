"""From an address to an opened model."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from edge_vit.errors import SpecError
from edge_vit.export.sources.from_edgevit import open_edgevit
from edge_vit.export.sources.from_huggingface import open_huggingface
from edge_vit.export.sources.from_onnx import open_onnx
from edge_vit.export.sources.from_python import open_python
from edge_vit.export.sources.from_timm import open_timm
from edge_vit.export.sources.from_torchvision import open_torchvision
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import Source
from edge_vit.plugins import Registry

Opener = Callable[[SourceRequest], Source]

SOURCES: Registry[Opener] = Registry(
    "source of models",
    "edge_vit.sources",
    {
        "edgevit": open_edgevit,
        "timm": open_timm,
        "torchvision": open_torchvision,
        "hf": open_huggingface,
        "python": open_python,
        "onnx": open_onnx,
    },
)
"""By the scheme of the address; other distributions add theirs by entry points, which name an
opener, of the group `edge_vit.sources`."""

_TARGETS = {"hf": "FOLDER_OR_NAME", "python": "package.module:factory", "onnx": "FILE"}
"""What follows a scheme, where it is not a name."""


def open_source(request: SourceRequest) -> Source:
    """Return the model that `request` asks for, with all that an export has to know about it.

    Raises:
        SpecError: the address, or something said about the model, cannot be.
        ArtifactError: a file is missing or damaged, or its weights do not fit.
        MissingDependencyError: the library that the address names is not installed.
        EdgeVitError: pretrained weights could not be downloaded.
    """
    scheme, colon, target = request.address.partition(":")
    opener = SOURCES.get(scheme) if colon else None
    if opener is None or not target:
        raise SpecError(_unknown_address(request.address, scheme, bool(colon)))
    source = opener(request)
    if not source.weights and (request.weights_key or request.checkpoint_size):
        option = "--weights-key" if request.weights_key else "--checkpoint-size"
        raise SpecError(
            f"{option} is about a checkpoint, and none was given. Add --checkpoint FILE"
        )
    return source


def _unknown_address(address: str, scheme: str, has_scheme: bool) -> str:
    schemes = ", ".join(f"{name}:{_TARGETS.get(name, 'NAME')}" for name in SOURCES)
    wanted = f"model {address!r}: expected one of {schemes}"
    if not has_scheme:
        return f"{wanted}. Did you mean {_guess(address)}?"
    near = difflib.get_close_matches(scheme, SOURCES, n=1)
    if near and scheme != near[0]:
        return f"{wanted}. Did you mean {near[0]}:{address.partition(':')[2]}?"
    return wanted


def _guess(address: str) -> str:
    path = Path(address)
    if path.suffix == ".onnx":
        return f"onnx:{address}"
    if path.suffix == ".safetensors":
        return f"edgevit:{address}"
    return f"hf:{address}" if "/" in address or path.is_dir() else f"timm:{address}"
