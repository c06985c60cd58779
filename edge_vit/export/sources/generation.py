"""Models that take no images: a step of diffusion, or a decoder of latents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge_vit.errors import SpecError
from edge_vit.export.checkpoint import refuse_nonfinite
from edge_vit.export.sources.request import SourceRequest
from edge_vit.export.sources.values import TorchSource, first_line
from edge_vit.spec import PreprocessSpec, SamplingSpec, TensorSpec
from edge_vit.tasks import task_named
from edge_vit.tasks.declared import DECODING, DENOISING

_MOST_INPUTS = 3
_NO_CHANGE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def generation_source(
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
            output: object = first_of(module(*map(torch.from_numpy, given)))
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
        return (first_of(self.model(*given)),)


def first_of(output: Any) -> Any:
    """Return the tensor that a model returned, or the first of several."""
    return output if isinstance(output, Tensor) else output[0]


def own_inputs(*made: object) -> tuple[tuple[TensorSpec, ...], SamplingSpec | None]:
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
            return tuple(dataclasses.replace(x) for x in inputs), known
    return (), None
