"""Self-attention in all the ways that people write it: (B, N, C) in, (B, N, C) out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, TOKENS = 32, 4, 17
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
    """With queries and keys normalised, as ViT-22B has it; the scale before the product or behind.

    A factor on what goes into a norm is lost in it, so this one has to stay behind it.
    """

    def __init__(self, attend=attend_scaled_queries):
        super().__init__(split_unbind, None)
        self.q_norm, self.k_norm = nn.LayerNorm(HEAD_SIZE), nn.LayerNorm(HEAD_SIZE)
        self.attend = lambda q, k, v: attend(self.q_norm(q), self.k_norm(k), v)


class WideNormedAttention(nn.Module):
    """With queries and keys normalised before or after their heads are apart, tokens first."""

    def __init__(self, *, heads_apart: bool):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        size = HEAD_SIZE if heads_apart else WIDTH
        self.q_norm, self.k_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.heads_apart = heads_apart

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], HEADS, HEAD_SIZE)
        q, k, v = (
            part.reshape(shape) if self.heads_apart else part for part in self.qkv(x).chunk(3, -1)
        )
        parts = (self.q_norm(q), self.k_norm(k), v)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in parts)
        return self.proj(attend_scaled_scores(q, k, v).transpose(1, 2).reshape(x.shape))


class GatedAttention(Attention):
    """With a gate in front of proj, made from the same tokens (Qiu et al., 2025)."""

    def __init__(self):
        super().__init__(split_unbind, attend_scaled_scores)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attend(*self.split(self.qkv(x))).transpose(1, 2).reshape(x.shape)
        return self.proj(heads * self.gate(x).sigmoid())


class SubNormAttention(Attention):
    """With a norm between attention and proj, as BEiT-3 has it."""

    def __init__(self):
        super().__init__(split_unbind, attend_scaled_scores)
        self.proj = nn.Sequential(nn.LayerNorm(WIDTH), self.proj)


class ShiftedScoresAttention(Attention):
    """With a bias on the scores that depends on the image: more than the canonical form says."""

    def __init__(self):
        super().__init__(split_unbind, None)
        self.attend = self.attend_shifted

    def attend_shifted(self, q, k, v):
        scores = q @ k.transpose(-2, -1) * SCALE
        return (scores + q.mean(-1, keepdim=True) * k.mean(-1)[:, :, None]).softmax(-1) @ v


class GroupedQueryAttention(nn.Module):
    """Two heads of queries look at each head of keys and values (Ainslie et al., 2023)."""

    def __init__(self):
        super().__init__()
        self.query, self.key_value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (-1, HEAD_SIZE)).transpose(1, 2)
            for part in (self.query(x), *self.key_value(x).chunk(2, -1))
        )
        key, value = (part.repeat_interleave(2, 1) for part in (key, value))
        return self.proj(attend_scaled_scores(query, key, value).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Keys and values are not made from what the queries are made from: no self-attention."""

    def __init__(self):
        super().__init__()
        self.query, self.key_value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.norm, self.proj = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        parts = (self.query(x), *self.key_value(self.norm(x)).chunk(2, -1))
        q, k, v = (part.view(batch, tokens, HEADS, HEAD_SIZE).transpose(1, 2) for part in parts)
        return self.proj(attend_scaled_scores(q, k, v).transpose(1, 2).reshape(x.shape))


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


def fused_attention() -> nn.Module:
    return Attention(split_unbind, attend_scaled_scores)
