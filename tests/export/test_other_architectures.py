"""Models of no family of their own: sites where there are blocks, a note where there are none."""

from __future__ import annotations

import functools

import onnx_ir as ir
import pytest
import torch
from reseed import reseed
from small_attentions import HEADS, WIDTH, SeparateAttention, fused_attention
from small_vits import DEPTH, PATCH, SIZE, SPEC, Block, SmallViT, export_legacy, small_source
from torch import Tensor, nn

from edge_vit.export.canonical import make_canonical
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.trace import trace_module
from edge_vit.graph.sites import find_blocks, find_sites

pytestmark = pytest.mark.uncounted

ROLES = ("qkv", "proj", "fc1", "fc2")
TINY = {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
NO_BLOCK = (
    "no transformer block and no linear layer on tokens was found (16 convolutions, 1 other "
    "product): INT8 has nothing to quantize. Take --fp16 in place of --int8",
)


def trace(source):
    return trace_module(source.module, source.preprocess.image_size)


@pytest.mark.parametrize(
    ("name", "arguments", "depth", "notes"),
    [
        ("vit_relpos_small_patch16_224", TINY, 2, ()),
        ("vit_base_patch16_rpn_224", TINY, 2, ()),
        ("vit_so150m2_patch16_reg1_gap_256", TINY, 2, ()),
        ("convnext_atto", CONVNEXT, 0, NO_BLOCK),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sites_are_found_or_a_note_says_why_not(name, arguments, depth, notes):
    source = open_source(SourceRequest(f"timm:{name}", random_weights=True, model_args=arguments))
    reseed(source.module)
    graph = make_canonical(export_legacy(source), source.preprocess, source.task)
    photos = sample_photos(source.preprocess)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, photos, "photographs")
    )
    assert parity.spread > 100 * max(parity.max_error, 1e-7)
    assert graph.notes == notes
    blocks = find_blocks(ir.from_proto(graph.model).graph)
    assert [tuple(site.role for site in block.sites) for block in blocks] == [ROLES] * depth


class PostNormViT(SmallViT):
    """Norms behind the residual sums, no class token: attention reads the patches themselves."""

    def __init__(self, attention=fused_attention):
        super().__init__(attention)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * DEPTH))

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for index, block in enumerate(self.blocks):
            x = self.norms[2 * index](x + block.attention(x))
            x = self.norms[2 * index + 1](x + block.mlp(x))
        return self.head(x.mean(1))


@pytest.mark.parametrize("attention", [fused_attention, SeparateAttention])
@pytest.mark.parametrize("export", [export_legacy, trace])
def test_the_first_block_of_a_post_norm_model_is_one_like_the_others(attention, export):
    source = small_source(functools.partial(PostNormViT, attention))
    graph = make_canonical(export(source), source.preprocess, source.task)
    photos = sample_photos(source.preprocess)
    check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, photos, "photographs")
    )
    tokens = (SIZE // PATCH) ** 2
    assert (graph.notes, graph.depth, graph.num_heads) == ((), DEPTH, HEADS)
    assert (graph.embed_dim, graph.num_tokens) == (WIDTH, tokens)
    blocks = find_blocks(ir.from_proto(graph.model).graph)
    assert [tuple(site.role for site in block.sites) for block in blocks] == [ROLES] * DEPTH


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class RMSBlock(Block):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()


def test_finds_the_mlp_behind_a_norm_of_another_kind():
    source = small_source(lambda: SmallViT(block=RMSBlock))
    graph = make_canonical(export_legacy(source, 17), SPEC, "classification")
    assert len(find_sites(ir.from_proto(graph.model).graph)) == 4 * DEPTH
