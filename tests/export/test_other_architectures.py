"""Models beyond the promised ones: sites where there are blocks, a note where the form is other."""

from __future__ import annotations

import functools

import onnx_ir as ir
import pytest
import transformers
from reseed import reseed
from small_attentions import HEADS, WIDTH, SeparateAttention, fused_attention
from small_vits import DEPTH, PATCH, SIZE, SmallViT, export_legacy, small_source
from torch import Tensor, nn

from edge_vit.export.canonical import make_canonical
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.trace import trace_module
from edge_vit.graph.sites import find_blocks

pytestmark = pytest.mark.uncounted

ROLES = ("qkv", "proj", "fc1", "fc2")
TINY = {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64}
SWIN = {"depths": [2, 2], "embed_dim": 24, "num_heads": [2, 4], "img_size": 56}
CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
WINDOWS = (
    "attention of block 0-1: tokens come as (2, 14, 14, 24), not (batch, tokens, width)",
    "attention of block 2-3: tokens come as (2, 7, 7, 48), not (batch, tokens, width)",
    "1 linear layer beside the blocks, quantized by itself; in float: 1 convolution, 1 other "
    "product",
)
PVT = {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 32, 48], "num_heads": [1, 1, 2, 3]}
XCIT = {"depth": 2, "cls_attn_layers": 1, "embed_dim": 48, "num_heads": 4, "img_size": 64}


def one_by_one(count: int, where: str, rest: str) -> tuple[str]:
    return (f"{count} linear layers {where}, each quantized by itself; in float: {rest}",)


NOWHERE = "in no block that is known"
REDUCED = one_by_one(10, "beside the blocks", "3 attentions, 11 convolutions, 6 other products")
PARALLEL = one_by_one(16, NOWHERE, "4 attentions, 1 convolution, 1 other product")
CHANNELS = one_by_one(10, NOWHERE, "3 attentions, 8 convolutions, 5 other products")
NO_BLOCK = (
    "no transformer block and no linear layer on tokens was found (16 convolutions, 1 other "
    "product): INT8 has nothing to quantize, --precision fp16 works",
)


def trace(source):
    return trace_module(source.module, source.preprocess.image_size)


@pytest.mark.parametrize(
    ("name", "arguments", "export", "depth", "notes"),
    [
        ("swin_tiny_patch4_window7_224", SWIN, export_legacy, 4, WINDOWS),
        ("eva02_tiny_patch14_224", {**TINY, "img_size": 56}, trace, 2, ()),
        ("vit_small_patch16_dinov3", {**TINY, "embed_dim": 64}, trace, 2, ()),
        ("beit3_base_patch16_224", TINY, export_legacy, 2, ()),
        ("beit_base_patch16_224", TINY, export_legacy, 2, ()),
        ("vit_relpos_small_patch16_224", TINY, export_legacy, 2, ()),
        ("vit_giant_patch14_dinov2", {**TINY, "img_size": 56}, export_legacy, 2, ()),
        ("vit_base_patch16_rpn_224", TINY, export_legacy, 2, ()),
        ("vit_base_patch16_clip_quickgelu_224", TINY, export_legacy, 2, ()),
        ("vit_so150m2_patch16_reg1_gap_256", TINY, export_legacy, 2, ()),
        ("pvt_v2_b0", PVT, export_legacy, 1, REDUCED),
        ("vit_small_patch16_18x2_224", TINY, trace, 0, PARALLEL),  # attentions side by side
        ("xcit_nano_12_p16_224", XCIT, trace, 0, CHANNELS),  # attention over channels
        ("convnext_atto", CONVNEXT, export_legacy, 0, NO_BLOCK),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sites_are_found_or_a_note_says_why_not(name, arguments, export, depth, notes):
    source = open_source(SourceRequest(f"timm:{name}", random_weights=True, model_args=arguments))
    reseed(source.module)
    graph = make_canonical(export(source), source.preprocess, source.task)
    photos = sample_photos(source.preprocess)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, photos, "photographs")
    )
    assert parity.spread > 100 * max(parity.max_error, 1e-7)
    assert graph.notes == notes
    blocks = find_blocks(ir.from_proto(graph.model).graph)
    assert [tuple(site.role for site in block.sites) for block in blocks] == [ROLES] * depth


@pytest.mark.parametrize("name", ["SiglipVisionModel", "CLIPVisionModelWithProjection"])
def test_models_of_transformers_have_their_sites(tmp_path, name):
    model_class = getattr(transformers, name)
    small = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    config = model_class.config_class(**small, num_hidden_layers=2, image_size=64, patch_size=16)
    model_class(config).save_pretrained(tmp_path)
    size, halves = (64, 64), (0.5, 0.5, 0.5)
    request = SourceRequest(f"hf:{tmp_path}", image_size=size, mean=halves, std=halves)
    source = open_source(request)
    reseed(source.module)
    graph = make_canonical(trace(source), source.preprocess, source.task)
    photos = sample_photos(source.preprocess)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, photos, "photographs")
    )
    assert parity.spread > 100 * max(parity.max_error, 1e-7)
    assert (graph.notes, graph.depth, graph.num_heads) == ((), 2, 4)
    blocks = find_blocks(ir.from_proto(graph.model).graph)
    assert [tuple(site.role for site in block.sites) for block in blocks] == [ROLES] * 2


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


def test_what_differs_from_block_to_block_is_not_known():
    source = open_source(
        SourceRequest("timm:swin_tiny_patch4_window7_224", random_weights=True, model_args=SWIN)
    )
    graph = make_canonical(export_legacy(source), source.preprocess, source.task)
    assert (graph.depth, graph.num_heads, graph.embed_dim, graph.num_tokens) == (4, 0, 0, 0)
