"""Trained models by address, such as ``timm:vit_small_patch16_224``: one file per scheme.

Each opener turns a `SourceRequest` into a `TorchSource` or an `OnnxSource` that knows its own
preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_vit.errors import SpecError, did_you_mean
from edge_vit.export.sources.from_edgevit import open_edgevit
from edge_vit.export.sources.from_huggingface import open_huggingface
from edge_vit.export.sources.from_onnx import open_onnx
from edge_vit.export.sources.from_python import open_python
from edge_vit.export.sources.from_timm import open_timm
from edge_vit.export.sources.from_torchvision import open_torchvision
from edge_vit.export.sources.request import SourceRequest as SourceRequest
from edge_vit.export.sources.request import parse_model_args as parse_model_args
from edge_vit.export.sources.values import OnnxSource as OnnxSource
from edge_vit.export.sources.values import Source as Source
from edge_vit.export.sources.values import TorchSource as TorchSource
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


_WITH_TEXT = ("hf",)  # schemes of ours whose models may have a text tower


def open_source(request: SourceRequest) -> Source:
    """Return the model that `request` asks for, with all that an export has to know about it.

    Raises:
        SpecError: the address, or something stated about the model, cannot be.
        ArtifactError: a file is missing or damaged, or its weights do not fit.
        MissingDependencyError: the library that the address names is not installed.
        EdgeVitError: pretrained weights could not be downloaded.
    """
    scheme, _, target = request.address.partition(":")
    opener = SOURCES.get(scheme) if target else None
    if opener is None:
        raise SpecError(_unknown_address(request.address))
    if scheme in SOURCES.shipped and scheme not in _WITH_TEXT:
        request.refuse_prompts()
    if scheme in SOURCES.shipped and scheme not in ("onnx", "python"):
        request.refuse_options("tells its outputs by itself", "output_name")
    source = opener(request)
    if source.text is None:
        request.refuse_prompts()
    if not source.weights:
        why = "is opened without --checkpoint FILE, which the option is about"
        request.refuse_options(why, "weights_key", "checkpoint_size")
    return source


def _unknown_address(address: str) -> str:
    schemes = ", ".join(f"{name}:{_TARGETS.get(name, 'NAME')}" for name in SOURCES)
    wanted = f"model {address!r}: expected one of {schemes}"
    scheme, colon, target = address.partition(":")
    if colon:
        near = "" if scheme in SOURCES else did_you_mean(scheme, SOURCES)
        return wanted + near.replace("?", f":{target}?")
    path = Path(address)
    by_suffix = {".onnx": "onnx", ".safetensors": "edgevit"}
    guess = by_suffix.get(path.suffix, "hf" if "/" in address or path.is_dir() else "timm")
    return f"{wanted}. Did you mean {guess}:{address}?"
