"""A small diffusion transformer of handwritten digits (DiT, Peebles and Xie 2023, adaLN-Zero)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_vit.spec import SamplingSpec, TensorSpec

SIDE, PATCH, CLASSES = 8, 2, 10


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return `x`, (batch, tokens, width), scaled and shifted by one vector for each image."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    """Attention and an MLP, each behind a norm without affine, modulated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the tokens behind the block."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(
            6, dim=1
        )
        batch, tokens, width = x.shape
        qkv = self.qkv(modulate(self.norm1(x), shift1, scale1))
        q, k, v = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads).permute(
            2, 0, 3, 1, 4
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + gate1.unsqueeze(1) * self.proj(attended)
        hidden = F.gelu(self.fc1(modulate(self.norm2(x), shift2, scale2)), approximate="tanh")
        return x + gate2.unsqueeze(1) * self.fc2(hidden)


class DiT(nn.Module):
    """Velocity of noisy digits: latents (batch, 1, 8, 8), timesteps and labels (batch,)."""

    def __init__(self, width: int = 128, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, PATCH)
        self.positions = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(CLASSES + 1, width)  # the last one is for no label
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, PATCH * PATCH)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        frequencies = torch.exp(-math.log(10000) * torch.arange(64) / 64)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, latents: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Return the velocity, as large as `latents`."""
        angles = timesteps.float()[:, None] * self.frequencies[None]
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.labels(labels)
        x = self.patches(latents).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(F.silu(condition)).chunk(2, dim=1)
        x = self.head(modulate(self.norm(x), shift, scale))
        side = SIDE // PATCH
        x = x.reshape(x.shape[0], side, side, PATCH, PATCH).permute(0, 1, 3, 2, 4)
        return x.reshape(latents.shape)


def dit_digits(weights: str = "") -> DiT:
    """Return the model with the weights of a file, or untrained; edgevit export calls this."""
    from safetensors.torch import load_file

    model = DiT()
    if weights:
        model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    model.inputs = (
        TensorSpec("latents", "float32", ("batch", 1, SIDE, SIDE)),
        TensorSpec("timesteps", "int64", ("batch",)),
        TensorSpec("labels", "int64", ("batch",)),
    )
    model.sampling = SamplingSpec(
        prediction="v_prediction",
        beta_schedule="squaredcos_cap_v2",
        steps=20,
        clip=1.0,
        num_labels=CLASSES,
        null_label=CLASSES,
        guidance=1.5,
    )
    return model
