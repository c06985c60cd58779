"""A small diffusion transformer with random weights, as edgevit export takes it."""

import torch
import torch.nn.functional as F
from torch import nn

from edge_vit.spec import SamplingSpec, TensorSpec

SIDE, CHANNELS, CLASSES, WIDTH, HEADS = 4, 2, 3, 32, 2

INPUTS = (
    TensorSpec("latents", "float32", ("batch", CHANNELS, SIDE, SIDE)),
    TensorSpec("timesteps", "int64", ("batch",)),
    TensorSpec("labels", "int64", ("batch",)),
)
SAMPLING = SamplingSpec(
    prediction="v_prediction",
    beta_schedule="squaredcos_cap_v2",
    steps=4,
    clip=1.0,
    num_labels=CLASSES,
    null_label=CLASSES,
    guidance=1.5,
)


def modulate(x, shift, scale):
    """Return `x` scaled and shifted by a vector for each image."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """A block with adaLN."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH)

    def forward(self, x, condition):
        """Return the tokens behind the block."""
        parts = self.modulation(F.silu(condition)).chunk(6, dim=1)
        qkv = self.qkv(modulate(self.norm1(x), parts[0], parts[1]))
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + parts[2][:, None] * self.proj(attended)
        hidden = self.fc1(modulate(self.norm2(x), parts[3], parts[4]))
        return x + parts[5][:, None] * self.fc2(F.gelu(hidden, approximate="tanh"))


class SmallDiT(nn.Module):
    """Two blocks over the pixels of the latents."""

    inputs, sampling = INPUTS, SAMPLING

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, SIDE * SIDE, WIDTH) * 0.1)
        self.labels = nn.Embedding(CLASSES + 1, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, CHANNELS)
        self.register_buffer("speeds", torch.logspace(0, -4, WIDTH // 2))

    def forward(self, latents, timesteps, labels):
        """Return the velocity."""
        angles = timesteps.float()[:, None] * self.speeds
        condition = torch.cat([angles.cos(), angles.sin()], 1) + self.labels(labels)
        x = self.embed(latents.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        return self.head(x).transpose(1, 2).reshape(latents.shape)


class SmallDecoder(nn.Module):
    """Latents to an image of twice the side."""

    inputs = INPUTS[:1]

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(CHANNELS, 3, 2, 2)

    def forward(self, latents):
        """Return the image."""
        return self.up(latents).tanh()


def make_dit():
    """Return the diffusion transformer; the factory that tests export."""
    torch.manual_seed(0)
    return SmallDiT()


def make_decoder():
    """Return the decoder."""
    torch.manual_seed(0)
    return SmallDecoder()


class SmallTokenDecoder(SmallDecoder):
    """Indices of a codebook to an image of twice the side."""

    inputs = (TensorSpec("tokens", "int64", ("batch", SIDE, SIDE), below=16),)

    def __init__(self):
        super().__init__()
        self.codebook = nn.Embedding(16, CHANNELS)

    def forward(self, tokens):
        """Return the image."""
        return super().forward(self.codebook(tokens).permute(0, 3, 1, 2))


def make_token_decoder():
    """Return the decoder of indices."""
    torch.manual_seed(0)
    return SmallTokenDecoder()
