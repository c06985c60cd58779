"""Images as stored to images as the model sees them: float, varied at random, normalised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_vit.spec import PreprocessSpec

MAX_ROTATION_DEG = 10.0
MAX_SCALING = 0.1
MAX_SHIFT = 0.08
"""Of the image's side."""


def to_pixels(images: Tensor) -> Tensor:
    """Return `images` uint8 (B, H, W, 3) as float32 (B, 3, H, W) of values from 0 to 1."""
    return images.permute(0, 3, 1, 2).float() / 255


def augment(pixels: Tensor) -> Tensor:
    """Return `pixels` (B, 3, H, W), each image rotated, scaled and shifted a little at random.

    What comes in from outside the image is black. Draws from torch's global random generator.
    """
    count = len(pixels)
    angle = _uniform(count, math.radians(MAX_ROTATION_DEG))
    scale = 1 + _uniform(count, MAX_SCALING)
    shift = 2 * _uniform(2 * count, MAX_SHIFT).reshape(count, 2, 1)  # affine_grid's image is 2 wide
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(count, 2, 2)
    affine = torch.cat([rotation, shift], dim=2)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def normalise(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    """Return ``(pixels - mean) / std`` of `pixels` (B, 3, H, W), values from 0 to 1."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return (pixels - mean) / std


def _uniform(count: int, limit: float) -> Tensor:
    """Return (count,) numbers between -limit and limit."""
    return (torch.rand(count) * 2 - 1) * limit
