"""Small ViTs, each written in another of the ways that people write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO

import onnx
import torch
import torch.nn.functional as F
from reseed import reseed
from torch import Tensor, nn

from edge_vit.export.sources import TorchSource
from edge_vit.spec import PreprocessSpec

SIZE, PATCH, WIDTH, HEADS, CLASSES, DEPTH = 16, 4, 32, 4, 7, 2
TOKENS = (SIZE // PATCH) ** 2 + 1
HEAD_SIZE = WIDTH // HEADS
SCALE = HEAD_SIZE**-0.5


class Attention(nn.Module):
    """Queries, keys and values from one layer, `split` one way or another.

    Args:
        split: from (B, N, 3 C) to queries, keys and values, each (B, h, N, d).
        attend: from those to (B, h, N, d).
    """

    def __init__(self, split, attend, *, qkv_bias=True):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=qkv_bias)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.split, self.attend = split, attend

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attend(*self.split(self.qkv(x)))
        return self.proj(heads.transpose(1, 2).reshape(x.shape))


def split_unbind(qkv: Tensor):
    batch, tokens, _ = qkv.shape
    return qkv.reshape(batch, tokens, 3, HEADS, HEAD_SIZE).permute(2, 0, 3, 1, 4).unbind(0)


def split_by_index(qkv: Tensor):
    batch, tokens, _ = qkv.shape
    parts = qkv.reshape(batch, tokens, 3, HEADS, HEAD_SIZE).permute(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def split_chunk(qkv: Tensor):
    batch, tokens, _ = qkv.shape
    return (part.view(batch, tokens, HEADS, HEAD_SIZE).transpose(1, 2) for part in qkv.chunk(3, -1))


def split_slice(qkv: Tensor):
    batch, tokens, _ = qkv.shape
    parts = (qkv[..., :WIDTH], qkv[..., WIDTH : 2 * WIDTH], qkv[..., 2 * WIDTH :])
    return (part.view(batch, tokens, HEADS, HEAD_SIZE).transpose(1, 2) for part in parts)


def split_interleaved(qkv: Tensor):
    """``b n (h d qkv) -> qkv b h n d``, as the einops tutorials have it."""
    batch, tokens, _ = qkv.shape
    parts = qkv.reshape(batch, tokens, HEADS, HEAD_SIZE, 3).permute(4, 0, 2, 1, 3)
    return parts[0], parts[1], parts[2]


def split_per_head(qkv: Tensor):
    """``b n (h qkv d) -> b h n (qkv d)``, as BLOOM and others pack them."""
    batch, tokens, _ = qkv.shape
    return qkv.reshape(batch, tokens, HEADS, 3 * HEAD_SIZE).transpose(1, 2).chunk(3, -1)


def attend_scaled_queries(q, k, v):
    return ((q * SCALE) @ k.transpose(-2, -1)).softmax(-1) @ v


def attend_scaled_keys(q, k, v):
    return (q @ (k * SCALE).transpose(-2, -1)).softmax(-1) @ v


def attend_scaled_both(q, k, v):
    return ((q * SCALE**0.5) @ (k.transpose(-2, -1) * SCALE**0.5)).softmax(-1) @ v


def attend_scaled_scores(q, k, v):
    return (q @ k.transpose(-2, -1) * SCALE).softmax(-1) @ v


def attend_divided_scores(q, k, v):
    return (q @ k.transpose(-2, -1) / HEAD_SIZE**0.5).softmax(-1) @ v


def attend_unscaled(q, k, v):
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


def attend_by_torch(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


class BiasedAttention(Attention):
    """With a constant added to the scores, as relative positions are once they are resolved."""

    def __init__(self, *, before_scale=False):
        super().__init__(split_unbind, None)
        self.table = nn.Parameter(torch.zeros(1, HEADS, TOKENS, TOKENS))
        self.before_scale = before_scale
        self.attend = self.attend_biased

    def attend_biased(self, q, k, v):
        if self.before_scale:
            return ((q @ k.transpose(-2, -1) + self.table) * SCALE).softmax(-1) @ v
        return (q @ k.transpose(-2, -1) * SCALE + self.table).softmax(-1) @ v


class SeparateAttention(nn.Module):
    """Queries, keys and values from a layer each, as transformers writes it."""

    def __init__(self, *, key_bias=True):
        super().__init__()
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH, bias=key_bias)
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, HEADS, HEAD_SIZE).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        context = attend_divided_scores(q, k, v).permute(0, 2, 1, 3).contiguous()
        return self.dense(context.view(batch, tokens, WIDTH))


class FlattenedAttention(nn.Module):
    """On rows (B N, C), as Swin's windows and many hand-written exports have it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        rows = self.qkv(x.reshape(batch * tokens, WIDTH))
        q, k, v = split_unbind(rows.reshape(batch, tokens, 3 * WIDTH))
        heads = attend_scaled_scores(q, k, v).transpose(1, 2)
        return self.proj(heads.reshape(batch * tokens, WIDTH)).reshape(batch, tokens, WIDTH)


class SequenceFirstAttention(nn.Module):
    """On (N, B, C) with heads and images as one dimension, as fairseq and CLIP have it."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = (
            part.contiguous().view(tokens, batch * HEADS, HEAD_SIZE).transpose(0, 1)
            for part in self.in_proj(x.transpose(0, 1)).chunk(3, -1)
        )
        heads = torch.bmm((q * SCALE @ k.transpose(1, 2)).softmax(-1), v)
        rows = heads.transpose(0, 1).reshape(tokens * batch, WIDTH)
        return self.out_proj(rows).view(tokens, batch, WIDTH).transpose(0, 1)


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class NormedAttention(Attention):
    """With queries and keys normalised, as ViT-22B has it: more than the canonical form says."""

    def __init__(self):
        super().__init__(split_unbind, None)
        self.q_norm, self.k_norm = nn.LayerNorm(HEAD_SIZE), nn.LayerNorm(HEAD_SIZE)
        self.attend = lambda q, k, v: attend_scaled_queries(self.q_norm(q), self.k_norm(k), v)


class RotaryAttention(Attention):
    """With rotary positions (RoPE)."""

    def __init__(self):
        super().__init__(split_unbind, None)
        angles = torch.arange(TOKENS)[:, None] * torch.linspace(1, 0.1, HEAD_SIZE // 2)
        self.register_buffer("sin", angles.sin().repeat(1, 2))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.attend = self.attend_rotated

    def rotate(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat([-right, left], -1) * self.sin

    def attend_rotated(self, q, k, v):
        return attend_scaled_queries(self.rotate(q), self.rotate(k), v)


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


class RowsBlock(Block):
    """With the residual stream as rows (B N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        rows = rows + self.attention(self.norm1(rows).reshape(x.shape)).reshape(-1, WIDTH)
        rows = rows + self.mlp(self.norm2(rows))
        return rows.reshape(x.shape)


def fused_attention() -> nn.Module:
    return Attention(split_unbind, attend_scaled_scores)


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
    return TorchSource(module, "small", "python:small", "classification", (), SPEC)


def export_legacy(
    source: TorchSource, opset: int = 17, batch: int | None = None, *, fold: bool = True
) -> onnx.ModelProto:
    """Return what the TorchScript exporter makes of `source`, which most ONNX files come from."""
    height, width = source.preprocess.image_size
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            source.module,
            (torch.zeros(batch or 2, 3, height, width),),
            file,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=fold,
            input_names=["pixels"],
            dynamic_axes=None if batch else {"pixels": {0: "n"}},
        )
    return onnx.load_from_string(file.getvalue())
