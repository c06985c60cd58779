"""Audits: of a parsed network, and of what the inspector says, against what was asked."""

from __future__ import annotations

import dataclasses

import pytest
from graph_files import FP16

from edge_vit.bundle import TABLE, Bundle
from edge_vit.errors import BackendError, GateFailed
from edge_vit.runtime.trt.audit import (
    Asked,
    EngineAudit,
    Product,
    audit_engine,
    audit_network,
    check_audit,
    what_was_asked,
)
from edge_vit.runtime.trt.build import audit_plan
from edge_vit.runtime.trt.network import NetworkLayer, TensorFacts
from tests.runtime.trt.conftest import Watched
from tests.runtime.trt.inspected import ROLES, inspected, layer, vit_layers

SITES = tuple(f"block{index}/{role}" for index in range(2) for role in ROLES)
PRODUCTS = (*SITES, *(f"block{i}/{name}" for i in range(2) for name in ("scores", "context")))
PRODUCTS += ("embed/Conv", "head")
NETWORK = EngineAudit(
    "network",
    {"int8": 8, "fp16": 30, "fp32": 2},
    {name: Product("int8" if name in SITES else "fp16", 100) for name in PRODUCTS},
    num_blocks=2,
)
INT8 = Asked("int8", {}, frozenset(SITES))

every_form = pytest.mark.parametrize(
    ("major", "long"), [(10, False), (10, True), (11, False)], ids=["10", "10 formats", "11"]
)


@every_form
def test_reads_both_forms(major, long):
    audit = audit_engine(inspected(major, vit_layers(major, long=long)), NETWORK)
    assert audit.witness == "engine"
    assert {n for n, p in audit.products.items() if p.precision == "int8"} == set(SITES)
    assert audit.products.keys() == NETWORK.products.keys()
    assert audit.num_named == len(NETWORK.products)
    assert audit.macs == {"fp32": 0, "fp16": 600, "int8": 800}
    assert audit.share("int8") == pytest.approx(8 / 14)
    assert audit.num_reformats == 1
    assert (audit.num_fused, audit.num_blocks) == (2, 2)
    # conv, head, the norms (which compute in FP16 and write INT8) and attentions; the products
    assert audit.layers == {"fp32": 0, "fp16": 6, "int8": 8}
    check_audit(audit, INT8, "int8 engine")


@every_form
@pytest.mark.parametrize("linear", ["fp16", "fp32"])
def test_a_silently_wider_engine_is_refused(major, long, linear):
    audit = audit_engine(inspected(major, vit_layers(major, linear=linear, long=long)), NETWORK)
    with pytest.raises(GateFailed) as caught:
        check_audit(audit, INT8, "int8 engine")
    assert str(caught.value).startswith(
        f"int8 engine is not what the bundle asked for: block0/qkv computes in {linear}, asked was "
        "int8, block0/proj computes in"
    )
    assert "and 5 more. Please report this" in str(caught.value)
    assert caught.value.exit_status == 3


def test_attention_in_pieces_is_counted_as_such():
    audit = audit_engine(inspected(10, vit_layers(10, is_fused=False)), NETWORK)
    assert audit.num_fused == 0
    check_audit(audit, INT8, "int8 engine")


def test_weights_alone_in_int8_do_not_count():
    layers = [layer("x", "gemm", ["fp16", "int8"], ["fp16"], "block0/qkv")]
    audit = audit_engine(inspected(10, layers), NETWORK)
    assert audit.products["block0/qkv"].precision == "fp16"


def test_a_fused_layer_without_metadata_is_known_by_its_name():
    layers = [layer("block0/fc1 + PWN(block0/gelu)", "CaskGemm", ["int8"], ["int8"])]
    assert audit_engine(inspected(10, layers), NETWORK).products["block0/fc1"].precision == "int8"


def test_the_network_speaks_for_what_no_layer_names():
    layers = [layer("block0/fc1", "gemm", ["fp32"], ["fp32"], "block0/fc1")]
    audit = audit_engine(inspected(10, layers), NETWORK)
    assert audit.num_named == 1
    assert audit.products.keys() == NETWORK.products.keys()
    assert audit.products["block0/fc2"].precision == "int8"
    with pytest.raises(GateFailed, match=r"block0/fc1 computes in fp32, asked was int8\. Please"):
        check_audit(audit, INT8, "int8 engine")


def test_a_nameless_fused_attention_counts():
    layers = [layer("_gemm_mha_v2_myl0_1", "kgen", ["fp16"], ["fp16"])]
    assert audit_engine(inspected(10, layers), NETWORK).num_fused == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no layers: an unknown form"),
        ("[]", "has no layers"),
        ('{"Bindings": []}', "has no layers"),
        (inspected(10, ["a", "b"]), "gives names alone: the engine was built without details"),
    ],
)
def test_what_cannot_be_read_says_so(text, words):
    with pytest.raises(BackendError, match=words):
        audit_engine(text, NETWORK)
    watched = Watched()
    assert audit_plan(text, NETWORK, watched) is NETWORK
    assert words.partition(":")[0] in watched.notes[0]


def test_without_an_inspector_the_network_speaks():
    assert audit_plan(None, NETWORK, Watched()) is NETWORK


def facts(name, dtype, *shape):
    return TensorFacts(name, dtype, shape)


def matmul(left, right, dtype="HALF"):
    return NetworkLayer(
        "block0/fc1", "MATRIX_MULTIPLY", (left, right), (facts("out", dtype, -1, 17, 64),)
    )


def dequantize(name, source="INT8"):
    return NetworkLayer(
        f"{name}/layer",
        "DEQUANTIZE",
        (facts(f"{name}/numbers", source, -1, 17, 32),),
        (facts(name, "HALF", -1, 17, 32),),
    )


X, W = facts("x", "HALF", -1, 17, 32), facts("w", "HALF", 1, 32, 64)
MOVED = NetworkLayer("move", "SHUFFLE", (facts("w0", "HALF", 32, 64),), (W,))


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([matmul(X, W)], "fp16"),
        ([dequantize("x"), dequantize("w"), matmul(X, W)], "int8"),
        ([dequantize("x"), dequantize("w0"), MOVED, matmul(X, W)], "int8"),
        ([dequantize("x"), matmul(X, W)], "fp16"),
        ([dequantize("w"), matmul(X, W)], "fp16"),
        ([dequantize("x", "FP8"), dequantize("w"), matmul(X, W)], "fp16"),
        ([matmul(facts("x", "FLOAT", -1, 17, 32), facts("w", "FLOAT", 32, 64), "FLOAT")], "fp32"),
    ],
    ids=["fp16", "int8", "moved", "activation alone", "weight alone", "fp8", "fp32"],
)
def test_a_product_is_int8_if_both_sides_are(layers, precision):
    audit = audit_network(layers)
    assert audit.products == {"block0/fc1": Product(precision, 17 * 32 * 64)}


def test_shapes_and_moves_compute_nothing():
    shape = NetworkLayer("s", "ELEMENTWISE", (facts("a", "INT64", 3),), (facts("b", "INT64", 3),))
    assert audit_network([shape, MOVED]).layers == {"fp32": 0, "fp16": 0, "int8": 0}


def test_the_table_says_what_is_asked(shared_bundle: Bundle):
    asked = what_was_asked(shared_bundle, "int8")
    assert asked.of("block0/fc1") == "int8"
    assert asked.of("block0/scores") == "fp16"
    assert what_was_asked(shared_bundle, "fp16").of("block0/fc1") == "fp16"
    assert what_was_asked(shared_bundle, "fp32").of("block0/fc1") == "fp32"


def test_what_stays_wider_by_choice_is_no_failure(bundle: Bundle):
    table = bundle.read_table()
    kept = dataclasses.replace(table.sites["block0/fc1"], precision="fp16", reason="costly")
    table = dataclasses.replace(
        table,
        sites=table.sites | {"block0/fc1": kept},
        fp32_nodes={"block1/scores": "overflows"},
    )
    changed = bundle.add({TABLE: table.to_bytes()})
    asked = what_was_asked(changed, "int8")
    assert asked.of("block0/fc1") == "fp16"
    assert asked.of("block1/scores") == "fp32"
    assert what_was_asked(changed, "fp16").of("block1/scores") == "fp32"


def test_a_bundle_without_a_table_is_asked_for_fp16_alone(bundle: Bundle):
    without = bundle.add({}, drop=(TABLE,))
    assert without.has(FP16)
    assert what_was_asked(without, "fp16").of("block0/fc1") == "fp16"


def test_a_site_that_the_parser_lost_is_missed():
    lost = {n: p for n, p in NETWORK.products.items() if n != "block1/fc2"}
    with pytest.raises(GateFailed, match="asked for: block1/fc2 is not there"):
        check_audit(dataclasses.replace(NETWORK, products=lost), INT8, "int8 engine")


def test_nothing_has_no_share():
    assert EngineAudit("network", {}, {}).share("int8") == 0.0
