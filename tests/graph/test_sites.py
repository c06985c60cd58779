"""Blocks are found by structure: names, order and what stands around them do not matter."""

from __future__ import annotations

import functools
import random
import string

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_attentions as ways
import small_vits as small
from small_vits import SmallViT, export_legacy, small_source

from edge_vit.export.canonical import make_canonical
from edge_vit.export.rewrites.constants import fold_constants
from edge_vit.graph.sites import find_blocks, find_sites

ROLES = ("qkv", "proj", "fc1", "fc2")


@functools.cache
def canonical() -> onnx.ModelProto:
    source = small_source()
    return make_canonical(export_legacy(source), source.preprocess, source.task).model


@functools.cache
def as_exported(attention=ways.SeparateAttention, mlp=small.Mlp) -> onnx.ModelProto:
    """Return a graph with nothing done to it but folded constants."""
    proto = export_legacy(small_source(functools.partial(SmallViT, attention, mlp)))
    model = ir.from_proto(proto)
    fold_constants(model)
    return ir.to_proto(model)


def describe(model: onnx.ModelProto):
    """Return all that is found, in words that hold no name of a node or value."""
    return [
        (site.name, site.role, site.linear.weight.tobytes(), site.linear.bias.tobytes())
        for site in find_sites(ir.from_proto(model).graph)
    ]


def rename(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return `model` with a random name for every node, value and weight."""
    rng = random.Random(seed)
    names: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        if name not in names:
            names[name] = "".join(rng.choices(string.ascii_letters, k=12))
        return names[name]

    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    graph = renamed.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new(value.name)
    for node in graph.node:
        node.name = new(f"node {node.name}")
        for values in (node.input, node.output):
            values[:] = [new(name) for name in values]
    onnx.checker.check_model(renamed, full_check=True)
    return renamed


def shuffle(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return `model` with its nodes in another order in which each stands behind its inputs."""
    rng = random.Random(seed)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model)
    graph = shuffled.graph
    waiting = list(model.graph.node)
    known = {"", *(v.name for v in graph.input), *(t.name for t in graph.initializer)}
    del graph.node[:]
    while waiting:
        node = rng.choice([node for node in waiting if known.issuperset(node.input)])
        waiting.remove(node)
        known.update(node.output)
        graph.node.append(node)
    onnx.checker.check_model(shuffled, full_check=True)
    return shuffled


GRAPHS = {
    "canonical": canonical,
    "separate": as_exported,
    "gated": functools.partial(as_exported, mlp=functools.partial(small.GatedMlp, is_packed=True)),
    "normed": functools.partial(as_exported, ways.NormedAttention),
    "rotary": functools.partial(as_exported, ways.RotaryAttention),
}


@pytest.mark.uncounted
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("seed", range(3))
def test_names_and_order_do_not_matter(graph, seed):
    wanted = describe(graph())
    assert {role for _, role, *_ in wanted} == set(ROLES)
    assert describe(rename(graph(), seed)) == wanted
    assert describe(shuffle(graph(), seed)) == wanted
    assert describe(shuffle(rename(graph(), seed), seed)) == wanted


def test_names_tell_the_place_of_a_site():
    assert [site.name for site in find_sites(ir.from_proto(canonical()).graph)] == [
        f"block{index}/{role}" for index in range(small.DEPTH) for role in ROLES
    ]


def test_queries_keys_and_values_apart_are_three_sites_of_one_role():
    block, *_ = find_blocks(ir.from_proto(as_exported()).graph)
    assert [site.name for site in block.sites] == [
        "block0/qkv0",
        "block0/qkv1",
        "block0/qkv2",
        "block0/proj",
        "block0/fc1",
        "block0/fc2",
    ]
    assert [linear.weight.shape for linear in block.linears("qkv")] == [(32, 32)] * 3


def test_weights_are_those_of_the_module():
    source = small_source()
    graph = ir.from_proto(export_legacy(source, fold=False))
    fold_constants(graph)
    blocks = find_blocks(graph.graph)
    for block, module in zip(blocks, source.module.blocks, strict=True):
        layers = (module.attention.qkv, module.attention.proj, module.mlp.fc1, module.mlp.fc2)
        for site, layer in zip(block.sites, layers, strict=True):
            np.testing.assert_array_equal(site.linear.weight, layer.weight.detach().numpy().T)
            np.testing.assert_array_equal(site.linear.bias, layer.bias.detach().numpy())


def test_the_root_is_what_the_first_norm_gives():
    for block in find_blocks(ir.from_proto(canonical()).graph):
        assert block.root.producer().op_type == "LayerNormalization"
        assert list(block.root.shape)[1:] == [ways.TOKENS, ways.WIDTH]
        (qkv,) = block.linears("qkv")
        assert qkv.input is block.root


def test_attention_pooling_is_no_block():
    source = small_source(small.PoolingViT)
    graph = make_canonical(export_legacy(source), source.preprocess, source.task)
    model = ir.from_proto(graph.model).graph
    assert sum(node.op_type == "Softmax" for node in model) == small.DEPTH + 1
    assert graph.depth == len(find_blocks(model)) == small.DEPTH


def test_attention_to_something_else_is_no_block():
    assert describe(as_exported(ways.CrossAttention)) == []


def test_a_graph_without_attention_has_no_blocks():
    source = small_source(small.ConvNet)
    graph = make_canonical(export_legacy(source), source.preprocess, source.task)
    assert find_blocks(ir.from_proto(graph.model).graph) == ()
    assert (graph.depth, graph.num_heads, graph.embed_dim, graph.num_tokens) == (0, 0, 0, 0)


class SwappedBlock(small.Block):
    """The MLP is added inside of the norm, the attention behind it."""

    def forward(self, x):
        return self.norm2(x + self.mlp(self.norm1(x))) + self.attention(x)


def test_a_linear_layer_is_in_one_block_alone():
    source = small_source(functools.partial(SmallViT, block=SwappedBlock))
    model = make_canonical(export_legacy(source), source.preprocess, source.task).model
    matmuls = [site.linear.matmul.name for site in find_sites(ir.from_proto(model).graph)]
    assert matmuls and len(set(matmuls)) == len(matmuls)
