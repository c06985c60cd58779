"""``python:package.module:factory``: a model that the user's own code makes."""

from __future__ import annotations

import contextlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_vit.errors import EdgeVitError, SpecError, did_you_mean
from edge_vit.export.checkpoint import fill, refuse_nonfinite
from edge_vit.export.sources.map_outputs import whole_image
from edge_vit.export.sources.modules import plain_module
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, first_line, torch_source
from edge_vit.spec import PreprocessSpec, SamplingSpec, TensorSpec
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DECODING, DENOISING, task_of_head

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib"))
_MOST_INPUTS = 3  # of a model that takes no images
_NO_CHANGE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # mean and std


def open_python(request: SourceRequest) -> TorchSource:
    """Return the model that the user's factory makes when called with the model arguments.

    A module may tell its preprocessing in an attribute `preprocess`, a `PreprocessSpec`; or one
    that takes no images its `inputs`, `TensorSpec`s, and how it is sampled in `sampling`.
    """
    module_name, _, factory_name = request.target.partition(":")
    if not module_name or not factory_name:
        raise SpecError(f"model {request.address!r}: expected python:package.module:factory")
    torch.manual_seed(0)
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as ``python -m`` does
    try:
        factory = _find_factory(request, module_name, factory_name)
        with _user_code(f"{request.address} failed"):
            made = factory(**request.model_args)
    finally:
        sys.path.remove(here)
    module = plain_module(made, request.address)
    weights = ""
    if request.checkpoint is not None:
        weights = fill(module, request.checkpoint, request.weights_key)
    inputs, sampling = _own_inputs(made, module)
    if inputs:
        return _generation_source(
            request, module, name=factory_name, inputs=inputs, sampling=sampling, weights=weights
        )
    own = getattr(made, "preprocess", None) or getattr(module, "preprocess", None)
    preprocess = request.refine(own) if isinstance(own, PreprocessSpec) else None
    source = torch_source(
        request,
        module,
        name=factory_name,
        task=task_of_head(request.num_classes),
        preprocess=preprocess or request.whole_preprocess(),
        weights=weights,
    )
    if preprocess is None and task_named(source.task).gives_map:
        source = replace(source, preprocess=whole_image(request, source.preprocess))
    return source


def _find_factory(
    request: SourceRequest, module_name: str, factory_name: str
) -> Callable[..., Any]:
    try:
        with _user_code(f"{request.address}: importing it failed"):
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
        known = [name for name, value in vars(module).items() if callable(value)]
        hint = did_you_mean(factory_name, known)
        raise SpecError(f"{request.address}: {module_name} has no function {factory_name!r}{hint}")
    return factory


@contextlib.contextmanager
def _user_code(what: str) -> Iterator[None]:
    """Run the user's code inside the block; a message about it begins with `what`.

    What it prints goes to stderr, since stdout is for results. It finds no arguments on its command
    line: those there are ours.
    """
    argv = sys.argv
    sys.argv = argv[:1]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except EdgeVitError:
        raise
    except SystemExit as error:
        raise SpecError(f"{what}: {_describe_exit(error)}") from error
    except Exception as error:  # the user's code can raise anything
        raise SpecError(f"{what}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.argv = argv


def _describe_exit(error: SystemExit) -> str:
    """Return which line ended the program."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    last = (own or list(frames))[-1]
    code = "" if error.code is None else f" with {str(error.code)[:100]}"
    return (
        f"{Path(last.filename).name}, line {last.lineno}, ends the program{code}. Leave "
        "out what exits or reads the command line when the module is imported or the factory called"
    )


def _generation_source(
    request: SourceRequest,
    module: nn.Module,
    *,
    name: str,
    inputs: Sequence[TensorSpec],
    sampling: SamplingSpec | None = None,
    weights: str = "",
) -> TorchSource:
    """Return `module`, which takes `inputs` one after the other, as a source.

    With `sampling` it is a step of diffusion, else a decoder of latents. It returns one tensor, or
    a tuple that begins with it.
    """
    task = DECODING if sampling is None else DENOISING
    if request.task not in (None, task):
        raise SpecError(f"--task {request.task}: {request.address} is for {task}. Leave --task out")
    module = module.cpu().float().eval().requires_grad_(False)
    refuse_nonfinite(dict(module.named_parameters()), request.address)
    if len(inputs) > _MOST_INPUTS:
        raise SpecError(
            f"{request.address} has {len(inputs)} inputs, expected latents, timesteps and labels "
            "at most. Keep what else it is fed in the model as a buffer"
        )
    given = [np.zeros((1, *map(int, each.shape[1:])), each.dtype) for each in inputs]
    try:
        with torch.no_grad():
            output: object = _first_of(module(*map(torch.from_numpy, given)))
    except (Exception, SystemExit) as error:  # somebody else's forward can raise anything
        wanted = ", ".join(f"{each.name} {each}" for each in inputs)
        raise SpecError(
            f"{request.address} does not take {wanted}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 4 or not output.is_floating_point():
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SpecError(
            f"{request.address} returns {got}, expected float32 (batch, channels, height, width)"
        )
    height, width = output.shape[-2:]
    return TorchSource(
        module=_FirstOutput(module),
        name=name,
        address=request.address,
        task=task,
        preprocess=PreprocessSpec((height, width), "bicubic", 1.0, "squash", *_NO_CHANGE),
        weights=weights,
        outputs=(task_named(task).output_name(),),
        inputs=tuple(inputs),
        sampling=sampling,
    )


class _FirstOutput(nn.Module):
    """A model as one that returns its first output alone, in a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, latents: Tensor, second: Tensor | None = None, third: Tensor | None = None
    ) -> tuple[Tensor]:
        """Return the first of what the model returns; torch.export follows no ``*args``."""
        given = (each for each in (latents, second, third) if each is not None)
        return (_first_of(self.model(*given)),)


def _first_of(output: Any) -> Any:
    """Return the tensor that a model returned, or the first of several."""
    return output if isinstance(output, Tensor) else output[0]


def _own_inputs(*made: object) -> tuple[tuple[TensorSpec, ...], SamplingSpec | None]:
    """Return the `inputs` and the `sampling` that one of several objects has as attributes."""
    for each in made:
        inputs = getattr(each, "inputs", None)
        if (
            isinstance(inputs, Sequence)
            and inputs
            and all(isinstance(x, TensorSpec) for x in inputs)
        ):
            sampling = getattr(each, "sampling", None)
            known = sampling if isinstance(sampling, SamplingSpec) else None
            return tuple(replace(x) for x in inputs), known
    return (), None
