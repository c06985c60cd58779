"""However attention was written, exported and cut up: one form, the same numbers."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_attentions as ways
import small_vits as small
import torch
import torch.nn.functional as F
from canonical_form import ROLES, assert_canonical
from small_attentions import Attention
from small_vits import SmallViT, export_legacy, small_source

from edge_vit.export.canonical import make_canonical
from edge_vit.export.parity import check_parity
from edge_vit.export.reference import observe_reference
from edge_vit.graph.sites import find_blocks

pytestmark = pytest.mark.uncounted

IMAGES = np.random.default_rng(0).integers(0, 256, (5, small.SIZE, small.SIZE, 3), dtype=np.uint8)
TANH_GELU = {"Erf": -1, "Div": -1, "Tanh": 1, "Mul": 4, "Add": 1}
NO_GELU = {"Erf": -1, "Div": -1, "Mul": -2, "Add": -1}
SIGMOID = {**NO_GELU, "Mul": 0, "Sigmoid": 1}
NORMS = {"LayerNormalization": 2, "Mul": 1, "Transpose": 1}
ROTARY = {"Slice": 4, "Neg": 2, "Concat": 2, "Mul": 5, "Add": 2, "Transpose": 1}


def vit(**parts):
    return functools.partial(SmallViT, **parts)


def attention(split=ways.split_unbind, attend=ways.attend_scaled_scores, **options):
    return functools.partial(Attention, split, attend, **options)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


VARIANTS = {
    # how queries, keys and values are told apart
    "unbind": (attention(ways.split_unbind), {}),
    "index": (attention(ways.split_by_index), {}),
    "chunk": (attention(ways.split_chunk), {}),
    "slice": (attention(ways.split_slice), {}),
    "interleaved": (attention(ways.split_interleaved), {}),
    "per-head": (attention(ways.split_per_head), {}),
    "separate": (ways.SeparateAttention, {}),
    "separate-no-key-bias": (functools.partial(ways.SeparateAttention, key_bias=False), {}),
    "no-qkv-bias": (attention(qkv_bias=False), {"Add": -1}),
    # where the scale is
    "scaled-queries": (attention(attend=ways.attend_scaled_queries), {}),
    "scaled-keys": (attention(attend=ways.attend_scaled_keys), {}),
    "scaled-both": (attention(attend=ways.attend_scaled_both), {}),
    "scaled-scores": (attention(attend=ways.attend_scaled_scores), {}),
    "divided-scores": (attention(attend=ways.attend_divided_scores), {}),
    "not-scaled": (attention(attend=ways.attend_unscaled), {}),
    # how tokens are laid out
    "flattened": (ways.FlattenedAttention, {}),
    "sequence-first": (ways.SequenceFirstAttention, {}),
    # torch's own
    "sdpa": (attention(attend=ways.attend_by_torch), {}),
    "multihead-attention": (ways.TorchAttention, {}),
    # a constant on the scores
    "bias": (ways.BiasedAttention, {"Add": 1}),
    "bias-before-scale": (functools.partial(ways.BiasedAttention, before_scale=True), {"Add": 1}),
    # more than moves between the linear layers and the attention
    "normed": (ways.NormedAttention, NORMS),
    "normed-scaled-scores": (
        functools.partial(ways.NormedAttention, ways.attend_scaled_scores),
        NORMS,
    ),
    "normed-tokens-first": (
        functools.partial(ways.WideNormedAttention, heads_apart=True),
        {**NORMS, "Transpose": 0, "Reshape": 2},
    ),
    "normed-whole": (
        functools.partial(ways.WideNormedAttention, heads_apart=False),
        {**NORMS, "Transpose": 0},
    ),
    "rotary": (ways.RotaryAttention, ROTARY),
    "norm-before-proj": (ways.SubNormAttention, {"LayerNormalization": 1}),
}


def mlp(activation):
    return vit(mlp=functools.partial(small.Mlp, activation))


def gated(**options):
    return vit(mlp=functools.partial(small.GatedMlp, **options))


MLPS = {
    "tanh-gelu": (mlp(functools.partial(F.gelu, approximate="tanh")), TANH_GELU),
    "quick-gelu": (mlp(quick_gelu), SIGMOID),
    "relu": (mlp(F.relu), {**NO_GELU, "Relu": 1}),
    "rows": (vit(mlp=small.FlattenedMlp), {}),
    "all-rows": (vit(block=small.RowsBlock), {}),
    "swiglu-packed": (gated(is_packed=True), {**SIGMOID, "Slice": 2}),
    "swiglu-apart": (gated(is_packed=False), {**SIGMOID, "Split": 1}),
    "layer-scale": (vit(scale=small.LayerScale), {"Mul": 2}),
    "side-by-side": (vit(block=small.ParallelBlock), {"LayerNormalization": -1}),
}


@pytest.fixture(autouse=True)
def nothing_is_said(caplog):
    """Fail where onnx or onnx_ir has something to complain about."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def prove(source, proto: onnx.ModelProto, batch: int | None = None):
    """Return `proto` in canonical form, after it gave the numbers of `source`."""
    graph = make_canonical(proto, source.preprocess, source.task)
    parity, _ = check_parity(
        source, graph.model.SerializeToString(), observe_reference(source, IMAGES, "noise", batch)
    )
    assert parity.spread > 100 * max(parity.max_error, 1e-7) or batch == 1
    return graph


def assert_form(graph, more, batch="batch"):
    assert graph.notes == ()
    assert (graph.num_heads, graph.embed_dim, graph.num_tokens) == (
        ways.HEADS,
        ways.WIDTH,
        ways.TOKENS,
    )
    assert_canonical(
        graph.model,
        depth=small.DEPTH,
        image_size=(small.SIZE, small.SIZE),
        batch=batch,
        more=more,
    )


@pytest.mark.parametrize(("make", "more"), VARIANTS.values(), ids=VARIANTS)
def test_every_attention_becomes_the_same(make, more):
    source = small_source(vit(attention=make))
    assert_form(prove(source, export_legacy(source)), more)


@pytest.mark.parametrize(("make", "more"), MLPS.values(), ids=MLPS)
@pytest.mark.parametrize("opset", [14, 20])
def test_every_mlp_keeps_its_four_sites(make, more, opset):
    source = small_source(make)
    assert_form(prove(source, export_legacy(source, opset)), more)


@pytest.mark.parametrize("name", ["unbind", "separate", "sequence-first", "multihead-attention"])
@pytest.mark.parametrize(("opset", "batch"), [(14, 1), (20, 3)])
def test_a_static_batch_stays_static(name, opset, batch):
    make, more = VARIANTS[name]
    source = small_source(vit(attention=make))
    graph = prove(source, export_legacy(source, opset, batch), batch)
    assert graph.batch == batch
    assert_form(graph, more, batch)


def test_unfolded_constants_make_no_difference():
    source = small_source()
    assert_form(prove(source, export_legacy(source, fold=False)), {})


def test_what_the_form_cannot_say_is_left_with_a_note_and_its_sites():
    source = small_source(vit(attention=ways.ShiftedScoresAttention))
    graph = prove(source, export_legacy(source))
    assert graph.notes == ("attention of block 0-1: a computed bias on the attention scores",)
    blocks = find_blocks(ir.from_proto(graph.model).graph)
    assert [site.name for block in blocks for site in block.sites] == [
        f"block{index}/{role}" for index in range(small.DEPTH) for role in ROLES
    ]


def test_says_where_queries_share_keys_and_values():
    source = small_source(vit(attention=ways.GroupedQueryAttention))
    graph = prove(source, export_legacy(source))
    assert graph.notes == ("attention of block 0-1: several queries share a key and a value",)
