"""Random weights under which a model really looks at its images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_LAYER_SCALES = ("gamma", "lambda1", "lambda_1", "lambda_2", "gamma_1", "gamma_2", "gamma_xca")
_LAYER_SCALES += ("gamma1", "gamma2", "gamma3", ".scale")
_CHOSEN = ("class", "bbox", "offset")  # scores, boxes and places, which makers of models set


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


def reseed_layers(module: nn.Module, seed: int = 0) -> None:
    """Draw the linear layers and layer scales of `module` anew, all but those of its last outputs.

    At a variance of 0.02² a narrow block adds a thousandth to what it gets, and INT8 of it would
    look better than FP16.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, child in module.named_modules():
            if isinstance(child, nn.Linear) and not any(word in name for word in _CHOSEN):
                std = child.in_features**-0.5
                child.weight.copy_(torch.randn(child.weight.shape, generator=generator) * std)
        for name, parameter in module.named_parameters():
            if name.endswith(_LAYER_SCALES):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.2)


def settle_norms(module: nn.Module, image_size: tuple[int, int]) -> None:
    """Give the batch norms of `module` the statistics of some noise, as training gives them.

    With those that they are born with, residuals of a hybrid grow a thousandfold, and its attention
    makes much of rounding errors: float32 is far from float64 in torch itself.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        module(torch.randn(4, 3, *image_size, generator=torch.Generator().manual_seed(1)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
