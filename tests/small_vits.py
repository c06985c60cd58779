"""Small ViTs, each written in another of the ways that people write them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx
import torch
import torch.nn.functional as F
from reseed import reseed
from small_attentions import (
    HEAD_SIZE,
    HEADS,
    TOKENS,
    WIDTH,
    GatedAttention,
    attend_scaled_queries,
    fused_attention,
)
from torch import Tensor, nn
from traced import trace_script

from edge_vit.export.sources import TorchSource
from edge_vit.spec import PreprocessSpec

SIZE, PATCH, CLASSES, DEPTH = 16, 4, 7, 2


class Mlp(nn.Module):
    def __init__(self, activation=F.gelu):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer, 2020), gate and value from one layer or from two."""

    def __init__(self, *, is_packed: bool):
        super().__init__()
        self.first = (
            nn.Linear(WIDTH, 4 * WIDTH)
            if is_packed
            else nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(2))
        )
        self.last = nn.Linear(2 * WIDTH, WIDTH)
        self.is_packed = is_packed

    def forward(self, x: Tensor) -> Tensor:
        gate, value = (
            self.first(x).chunk(2, -1) if self.is_packed else (layer(x) for layer in self.first)
        )
        return self.last(F.silu(gate) * value)


class FlattenedMlp(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, WIDTH)).reshape(x.shape)


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, attention, mlp, scale):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attention, self.mlp = attention(), mlp()
        self.scale1, self.scale2 = scale(), scale()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.attention(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


class ParallelBlock(Block):
    """Attention and MLP side by side on one norm, as ViT-22B has it."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        return x + self.attention(y) + self.mlp(y)


class RmsBlock(Block):
    """With RMSNorm (Zhang and Sennrich, 2019) in place of LayerNorm."""

    def __init__(self, attention, mlp, scale):
        super().__init__(attention, mlp, scale)
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)


class RowsBlock(Block):
    """With the residual stream as rows (B N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        rows = rows + self.attention(self.norm1(rows).reshape(x.shape)).reshape(-1, WIDTH)
        rows = rows + self.mlp(self.norm2(rows))
        return rows.reshape(x.shape)


class SmallViT(nn.Module):
    """16 x 16 pixels, 16 patches and a class token, 2 blocks, 32 wide, 7 classes."""

    def __init__(self, attention=fused_attention, mlp=Mlp, scale=nn.Identity, block=Block):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(block(attention, mlp, scale) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], 1)
        return self.head(self.norm(self.blocks(tokens + self.positions))[:, 0])


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "plain": SmallViT,
    "layer scale": partial(SmallViT, scale=LayerScale),
    "gated, packed": partial(SmallViT, mlp=partial(GatedMlp, is_packed=True)),
    "gated, apart": partial(SmallViT, mlp=partial(GatedMlp, is_packed=False)),
    "relu": partial(SmallViT, mlp=partial(Mlp, F.relu)),
    "parallel": partial(SmallViT, block=ParallelBlock),
    "rms norm": partial(SmallViT, block=RmsBlock),
    "rms norm, gated": partial(SmallViT, mlp=partial(GatedMlp, is_packed=False), block=RmsBlock),
    "gated attention": partial(SmallViT, attention=GatedAttention),
}


class PoolingViT(SmallViT):
    """With a learned query that gathers from all tokens, as SigLIP pools."""

    def __init__(self):
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.query, self.pool = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.mlp = Mlp()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.blocks(self.embed(images).flatten(2).transpose(1, 2)))
        query = self.query(self.latent).view(1, 1, HEADS, HEAD_SIZE).transpose(1, 2)
        key, value = (
            part.unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2)
            for part in self.key_value(tokens).chunk(2, -1)
        )
        pooled = attend_scaled_queries(query, key, value).transpose(1, 2).flatten(2)
        pooled = self.pool(pooled)
        return self.head(pooled + self.mlp(pooled))[:, 0]


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(images).relu()).relu().mean((2, 3)))


SPEC = PreprocessSpec((SIZE, SIZE))


def small_source(make: Callable[[], nn.Module] = SmallViT) -> TorchSource:
    """Return a reseeded small model as an opened source."""
    module = make().eval()
    reseed(module)
    return TorchSource(
        module=module,
        name="small",
        address="python:small",
        task="classification",
        preprocess=SPEC,
    )


def export_legacy(
    source: TorchSource, opset: int = 17, batch: int | None = None, *, fold: bool = True
) -> onnx.ModelProto:
    """Return what the TorchScript exporter makes of `source`, which most ONNX files come from."""
    return trace_script(source.module, source.preprocess.image_size, batch, opset, fold=fold)
