"""Random weights under which a model really looks at its images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_LAYER_SCALES = ("gamma", "lambda1")  # timm and torchvision, transformers


def reseed(module: nn.Module, seed: int = 0) -> None:
    """Draw every weight of `module` anew.

    As models are born, layer scale (1e-5) or zeros hide the blocks, and two images give nearly the
    same outputs: a wrong graph would pass for a right one. Here matrices have a variance of 1 /
    inputs, layer scales lie around 0.7, norms around 1, and no bias is zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: nn.Parameter, std: float, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(parameter.shape, generator=generator) * std + mean

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and parameter.shape[0] == 1:  # tokens, position embeddings
                parameter.copy_(normal(parameter, 0.5))
            elif parameter.ndim > 1:
                parameter.copy_(normal(parameter, 1 / np.sqrt(parameter[0].numel())))
            elif name.endswith(_LAYER_SCALES):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.2)
            elif name.endswith("weight"):
                parameter.copy_(normal(parameter, 0.1, mean=1.0))
            else:
                parameter.copy_(normal(parameter, 0.1))
