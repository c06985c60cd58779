"""The Vision Transformer of "An Image is Worth 16x16 Words", to be read.

The paper: https://arxiv.org/abs/2010.11929. Shapes in comments: B images, N tokens (patches and
the class token), D channels of a token (`embed_dim`), h heads of d_k = D / h channels each.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_vit.errors import SpecError

Positions = Literal["learned"]


@dataclass(frozen=True)
class VisionTransformerConfig:
    """Every choice that shapes a `VisionTransformer`."""

    image_size: int  # side of the square input, in pixels
    patch_size: int  # side of a square patch, in pixels; divides image_size
    num_classes: int  # width of the head; 0 leaves it out, the model then returns features
    embed_dim: int  # channels of a token; num_heads divides it
    depth: int  # encoder blocks
    num_heads: int
    mlp_ratio: float = 4.0  # hidden channels of the MLP, per channel of a token
    positions: Positions = "learned"
    dropout: float = 0.0  # in training, after the embedding and after each residual branch
    in_channels: int = 3
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "in_channels"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("num_classes", self.num_classes >= 0, "0 (no head) or more")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        self._check("mlp_ratio", self.mlp_dim >= 1, "a number above 0")
        self._check("layer_norm_eps", self.layer_norm_eps > 0, "above 0")
        self._check("positions", self.positions == "learned", "learned")
        for name, of in (("image_size", "patch_size"), ("embed_dim", "num_heads")):
            wanted = f"a multiple of {of} {getattr(self, of)}"
            self._check(name, getattr(self, name) % getattr(self, of) == 0, wanted)

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise SpecError(f"{name}: got {getattr(self, name)}, expected {wanted}")

    @property
    def grid_size(self) -> int:
        """Patches along each side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens that attend to each other: the patches and the class token."""
        return 1 + self.grid_size**2

    @property
    def mlp_dim(self) -> int:
        """Hidden channels of each block's MLP."""
        return int(self.embed_dim * self.mlp_ratio)


PRESETS: Mapping[str, VisionTransformerConfig] = {
    "vit_digits": VisionTransformerConfig(32, 8, 10, embed_dim=96, depth=6, num_heads=3),
    "vit_cifar": VisionTransformerConfig(32, 4, 100, embed_dim=192, depth=9, num_heads=3),
    "vit_tiny_patch16_224": VisionTransformerConfig(224, 16, 1000, 192, depth=12, num_heads=3),
    "vit_small_patch16_224": VisionTransformerConfig(224, 16, 1000, 384, depth=12, num_heads=6),
    "vit_base_patch16_224": VisionTransformerConfig(224, 16, 1000, 768, depth=12, num_heads=12),
}


class PatchEmbedding(nn.Module):
    """Cuts images into patches and projects each one linearly to a token."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.projection = nn.Conv2d(config.in_channels, config.embed_dim, size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (B, patches, D) of `images` (B, channels, H, W), row by row."""
        tokens: Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens


class MultiHeadSelfAttention(nn.Module):
    """MSA: every token gathers from all tokens, in several heads side by side (appendix A)."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return softmax(Q Kᵀ / √d_k) V of `tokens` (B, N, D), heads merged: (B, N, D)."""
        batch, num_tokens, embed_dim = tokens.shape
        head_dim = embed_dim // self.num_heads
        qkv = self.qkv(tokens).reshape(batch, num_tokens, 3, self.num_heads, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, h, N, d_k)
        scores = query @ key.transpose(-2, -1) / math.sqrt(head_dim)  # (B, h, N, N)
        attended = scores.softmax(dim=-1) @ value  # (B, h, N, d_k)
        merged: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, num_tokens, embed_dim))
        return merged


class MLP(nn.Module):
    """Two linear layers with the exact GELU between, on each token by itself."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, N, D) from `tokens` (B, N, D)."""
        hidden: Tensor = self.fc2(self.gelu(self.fc1(tokens)))
        return hidden


class EncoderBlock(nn.Module):
    """One encoder block, normalised before each branch (equations 2 and 3)."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.attention = MultiHeadSelfAttention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return z_l (B, N, D) from z_{l-1}, `tokens` (B, N, D)."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        output: Tensor = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return output


class VisionTransformer(nn.Module):
    """Images to class logits, or to features where the config has no classes."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        shape = (1, config.num_tokens, config.embed_dim)
        self.position_embedding = nn.Parameter(torch.zeros(shape))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        has_head = config.num_classes > 0
        self.head = nn.Linear(config.embed_dim, config.num_classes) if has_head else nn.Identity()
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 (B, classes), or the class token's features (B, D) without a head.

        `images` are float32 (B, channels, image_size, image_size), normalised as in training.
        """
        patches = self.patch_embedding(images)
        class_token = self.class_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + self.position_embedding  # equation 1
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])  # equation 4
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # The patch projection is a linear layer too; only its weight is stored as a convolution's.
        projection = self.patch_embedding.projection
        nn.init.xavier_uniform_(projection.weight.view(self.config.embed_dim, -1))
        nn.init.zeros_(projection.bias)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)


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


def find_config(name: str, **overrides: Any) -> VisionTransformerConfig:
    """Return the preset called `name`, with the fields in `overrides` changed."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(PRESETS)}"
        raise SpecError(f"model {name!r} is unknown, {hint}")
    config = PRESETS[name]
    fields = VisionTransformerConfig.__dataclass_fields__
    for key in overrides:
        if key not in fields:
            raise SpecError(f"{name} has no option {key!r}, expected one of {', '.join(fields)}")
    return replace(config, **overrides)


def create_model(name: str, **overrides: Any) -> VisionTransformer:
    """Return the preset called `name`, randomly initialised, with overrides as in `find_config`."""
    return VisionTransformer(find_config(name, **overrides))
