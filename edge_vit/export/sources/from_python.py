"""``python:package.module:factory``: a model that the user's own code makes."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_vit.errors import EdgeVitError, SpecError
from edge_vit.export.checkpoint import load_weights, read_weights
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.spec import PreprocessSpec


def open_python(request: SourceRequest) -> TorchSource:
    """Return the model that the user's factory makes when called with the model arguments.

    A module may tell its preprocessing in an attribute `preprocess`, a `PreprocessSpec`.

    Raises:
        SpecError: there is no such factory, it fails or makes no module, or nobody says the
            preprocessing.
        ArtifactError: the checkpoint cannot be read or does not fit.
    """
    module_name, _, factory_name = request.target.partition(":")
    if not module_name or not factory_name:
        raise SpecError(f"model {request.address!r}: expected python:package.module:factory")
    torch.manual_seed(0)
    with _current_folder_importable():
        factory = _find_factory(request, module_name, factory_name)
        module = _call(request, factory)
    if request.checkpoint is not None:
        load_weights(module, read_weights(request.checkpoint), f"checkpoint {request.checkpoint}")
    own = getattr(module, "preprocess", None)
    return torch_source(
        request,
        module,
        name=factory_name,
        task="features" if request.num_classes == 0 else "classification",
        preprocess=request.refine(own)
        if isinstance(own, PreprocessSpec)
        else request.whole_preprocess(),
    )


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Let modules of the current folder be imported, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _find_factory(
    request: SourceRequest, module_name: str, factory_name: str
) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise SpecError(
                f"{request.address}: no module {error.name!r}, neither installed nor in "
                f"{Path.cwd()}"
            ) from None
        raise SpecError(f"{request.address}: importing it failed: {error}") from error
    except Exception as error:  # the user's code can raise anything
        raise SpecError(
            f"{request.address}: importing it failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    factory: Callable[..., Any] | None = getattr(module, factory_name, None)
    if not callable(factory):
        raise SpecError(f"{request.address}: {module_name} has no function {factory_name!r}")
    return factory


def _call(request: SourceRequest, factory: Callable[..., Any]) -> nn.Module:
    try:
        module = factory(**request.model_args)
    except EdgeVitError:
        raise
    except Exception as error:  # the user's code can raise anything
        raise SpecError(
            f"{request.address} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise SpecError(
            f"{request.address} returned a {type(module).__name__}, expected a torch.nn.Module"
        )
    return module
