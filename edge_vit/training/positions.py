"""Where a token is: sinusoidal position embeddings, and learned ones for another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoids(positions: Tensor, channels: int) -> Tensor:
    """Return the sinusoidal embedding (N, channels) of `positions` (N,)."""
    exponents = torch.arange(0, channels, 2, dtype=torch.float64) / channels
    angles = positions.double()[:, None] / 10000.0**exponents
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def sinusoidal_1d(num_patches: int, channels: int) -> Tensor:
    """Return embeddings (1, 1 + num_patches, channels); the class token is position 0."""
    return sinusoids(torch.arange(1 + num_patches), channels)[None]


def sinusoidal_2d(grid_size: int, channels: int) -> Tensor:
    """Return embeddings (1, 1 + grid_size², channels): half for the row, half for the column."""
    along_a_side = sinusoids(torch.arange(grid_size), channels // 2)
    rows = along_a_side.repeat_interleave(grid_size, dim=0)
    columns = along_a_side.repeat(grid_size, 1)
    patches = torch.cat([rows, columns], dim=1)
    return torch.cat([torch.zeros(1, channels), patches])[None]


def resize_positions(embedding: Tensor, grid_size: int) -> Tensor:
    """Return a learned `embedding` (1, 1 + G², channels) as (1, 1 + grid_size², channels).

    Bicubic with antialiasing, as timm's ``resample_abs_pos_embed`` does it; the class token keeps
    its own.
    """
    old_size = round((embedding.shape[1] - 1) ** 0.5)
    if old_size == grid_size:
        return embedding
    class_position, patches = embedding[:, :1], embedding[:, 1:]
    grid = patches.reshape(1, old_size, old_size, -1).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(grid_size, grid_size), mode="bicubic", antialias=True)
    resized = grid.permute(0, 2, 3, 1).flatten(1, 2).to(embedding.dtype)
    return torch.cat([class_position, resized], dim=1)
