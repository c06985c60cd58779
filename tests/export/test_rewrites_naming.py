"""Names by place: every node, value and weight says where it belongs."""

from __future__ import annotations

import functools

import onnx
import pytest
from small_attentions import SeparateAttention
from small_graphs import parse, run
from small_vits import DEPTH, SmallViT, export_legacy, small_source

from edge_vit.export.canonical import make_canonical
from edge_vit.export.rewrites.naming import name_by_place
from edge_vit.graph.sites import find_blocks


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    source = small_source()
    return make_canonical(export_legacy(source), source.preprocess, source.task).model


def test_nodes_follow_the_order_of_the_network(model):
    places = [node.name.partition("/")[0] for node in model.graph.node]
    in_order = list(dict.fromkeys(places))
    assert in_order == ["embed", *(f"block{index}" for index in range(DEPTH)), "head"]
    assert places == sorted(places, key=in_order.index)


def test_a_value_is_called_after_its_node_and_a_weight_after_its_reader(model):
    for node in model.graph.node:
        if "logits" not in node.output:
            assert list(node.output) == [f"{node.name}:{i}" for i in range(len(node.output))]
    weights = {tensor.name for tensor in model.graph.initializer}
    reads = [
        (value, f"{node.name}.{index}")
        for node in model.graph.node
        for index, value in enumerate(node.input)
        if value in weights
    ]
    named = {value for value, place in reads if value == place}
    assert named == weights


def test_the_parts_of_a_block_have_their_names(model):
    names = {node.name: node.op_type for node in model.graph.node}
    for index in range(DEPTH):
        for part in ("qkv", "scores", "context", "proj", "fc1", "fc2"):
            assert names[f"block{index}/{part}"] == "MatMul"
        assert names[f"block{index}/softmax"] == "Softmax"
        assert names[f"block{index}/fc1/bias"] == "Add"
    assert names["head/MatMul"] == "MatMul"
    assert names["embed/Conv"] == "Conv"


def test_a_second_time_changes_nothing(model):
    source = small_source()
    again = make_canonical(model, source.preprocess, source.task, is_contract=True).model
    assert [node.name for node in again.graph.node] == [node.name for node in model.graph.node]
    assert sorted(again.graph.initializer, key=lambda t: t.name) == sorted(
        model.graph.initializer, key=lambda t: t.name
    )


def test_names_that_are_taken_by_others_do_no_harm():
    source = small_source(functools.partial(SmallViT, SeparateAttention))
    proto = export_legacy(source)
    wanted = make_canonical(proto, source.preprocess, source.task).model
    ends = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    inner = sorted(
        {name for node in proto.graph.node for name in (*node.input, *node.output)} - ends
    )
    taken = {value.name for value in (*wanted.graph.value_info, *wanted.graph.initializer)}
    new = dict(zip(inner, sorted(taken), strict=False))
    for node in proto.graph.node:
        for values in (node.input, node.output):
            values[:] = [new.get(name, name) for name in values]
    for tensor in proto.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    del proto.graph.value_info[:]
    assert make_canonical(proto, source.preprocess, source.task).model == wanted


def test_a_weight_that_is_read_twice_keeps_its_first_name():
    model = parse("(float[n,3] x) => (y) { a = Mul(x, w) y = Add(a, w) }", w=2.0)
    before = run(model)
    name_by_place(model.graph, find_blocks(model.graph))
    assert [value.name for value in model.graph.initializers.values()] == ["embed/Mul.1"]
    assert [node.name for node in model.graph] == ["embed/Mul", "embed/Add"]
    assert (run(model) == before).all()
