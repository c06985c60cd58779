"""``python:package.module:factory``: a model that the user's own code makes."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import fill
from edge_vit.export.sources.modules import plain_module
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.user_code import user_code
from edge_vit.export.sources.values import TorchSource, torch_source
from edge_vit.spec import PreprocessSpec
from edge_vit.tasks.declared import task_of_head


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
        with user_code(f"{request.address} failed"):
            made = factory(**request.model_args)
    module = plain_module(made, request.address)
    weights = ""
    if request.checkpoint is not None:
        weights = fill(module, request.checkpoint, request.weights_key)
    own = getattr(made, "preprocess", None) or getattr(module, "preprocess", None)
    return torch_source(
        request,
        module,
        name=factory_name,
        task=task_of_head(request.num_classes),
        preprocess=request.refine(own)
        if isinstance(own, PreprocessSpec)
        else request.whole_preprocess(),
        weights=weights,
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
        with user_code(f"{request.address}: importing it failed"):
            module = importlib.import_module(module_name)
    except SpecError as error:
        absent = error.__cause__
        if isinstance(absent, ModuleNotFoundError) and absent.name:
            if (module_name + ".").startswith(absent.name + "."):
                raise SpecError(
                    f"{request.address}: no module {absent.name!r}, neither installed nor in "
                    f"{Path.cwd()}"
                ) from None
            raise SpecError(f"{request.address}: importing it failed: {absent}") from absent
        raise
    factory: Callable[..., Any] | None = getattr(module, factory_name, None)
    if isinstance(factory, nn.Module):
        made = factory
        return lambda: made
    if not callable(factory):
        near = difflib.get_close_matches(factory_name, _own_names(module), n=1)
        hint = f". Did you mean {near[0]}?" if near else ""
        raise SpecError(f"{request.address}: {module_name} has no function {factory_name!r}{hint}")
    return factory


def _own_names(module: ModuleType) -> list[str]:
    """Return the names of what `module` itself defines and can be called."""
    found = vars(module).items()
    return [n for n, v in found if callable(v) and getattr(v, "__module__", "") == module.__name__]
