"""ViTs that float16 overflows: which nodes stay in float32, and that it then holds."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
import rtx
from overflowing import (
    decomposed,
    edited,
    near_dead,
    residual_of_100_000,
    with_both,
    with_logits,
    with_rare_unit,
    with_residual,
)
from seeded import SITES, random_images, run_onnx

from edge_vit.bundle import Golden
from edge_vit.bundle.record import HalfProof
from edge_vit.data.preprocess import digest
from edge_vit.errors import BackendError
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import (
    HalfEmulator,
    choose_fp32_nodes,
    observe_amax,
    prove_half,
)
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import MIN_SCALE, RECIPES

IMAGES = random_images(6)


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def run_as_half(graph):
    outputs, overflowed = HalfEmulator(graph).run({"images": IMAGES})
    return next(iter(outputs.values())), overflowed


def test_an_ordinary_model_keeps_no_node_in_float32(vit):
    amax = observe_amax(vit.model, vit.spec, IMAGES)
    assert choose_fp32_nodes(vit.model, amax) == {}
    output, overflowed = run_as_half(write_half(vit.model))
    assert not overflowed
    assert cosine(output, run_onnx(vit.model, IMAGES)) > 0.9999


def test_amax_is_that_of_the_values(vit):
    amax = observe_amax(vit.model, vit.spec, IMAGES)
    assert amax["logits"] == pytest.approx(np.abs(run_onnx(vit.model, IMAGES)).max(), rel=1e-4)
    assert amax["embed/Cast:0"] == IMAGES.max()
    assert amax["block0/softmax:0"] <= 1


def test_a_residual_stream_of_five_thousand_is_left_in_float16(vit):
    large = with_residual(vit, 5_000.0)
    amax = observe_amax(large.model, large.spec, IMAGES)
    assert amax["block0/Add_3:0"] > 4_990
    assert choose_fp32_nodes(large.model, amax) == {}
    output, overflowed = run_as_half(write_half(large.model))
    assert not overflowed
    assert cosine(output, run_onnx(large.model, IMAGES)) > 0.999


@pytest.mark.parametrize(
    ("build", "overflows"),
    [
        (residual_of_100_000, "block0/Add_3"),
        (with_logits, "block1/scores"),
        (with_both, "block1/scores"),
    ],
    ids=["residual", "logits", "both"],
)
def test_what_overflows_stays_in_float32_and_nothing_else(vit, build, overflows):
    large = build(vit)
    exact = run_onnx(large.model, IMAGES)
    blanket, overflowed = run_as_half(write_half(large.model))
    assert overflows in overflowed
    assert not cosine(blanket, exact) > 0.999  # NaN is not above it either

    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    assert overflows in chosen
    assert re.fullmatch(r"reaches \d[\d,]+, float16 ends at 65,504", chosen[overflows])
    half = write_half(large.model, chosen)
    onnx.checker.check_model(half, full_check=True)
    output, overflowed = run_as_half(half)
    assert not overflowed
    assert cosine(output, exact) > 0.999
    assert len(chosen) < len(large.model.graph.node) / 3


def test_both_at_once_keep_few_nodes(vit):
    """5,000 in the residual stream needs none: only what the scores pass through stays."""
    large = with_both(vit)
    amax = observe_amax(large.model, large.spec, IMAGES)
    assert amax["block1/Add_3:0"] > 4_990
    assert amax["block1/scores:0"] > 65_504
    chosen = choose_fp32_nodes(large.model, amax)
    assert "block1/softmax" in chosen
    assert not [name for name in chosen if not name.startswith("block1/")]
    assert len(chosen) < 8
    assert all(chosen.values())


def test_five_thousand_overflow_a_norm_that_is_written_out(vit):
    """Its squares pass 65,504: the blanket cast of such a graph fails where the operator holds."""
    large = with_residual(vit, 5_000.0)
    written = decomposed(large.model)
    exact = run_onnx(large.model, IMAGES)
    np.testing.assert_allclose(run_onnx(written, IMAGES), exact, atol=1e-2)
    output, overflowed = run_as_half(write_half(written))
    assert "block1/LayerNormalization/squares" in overflowed
    assert not cosine(output, exact) > 0.999
    amax = observe_amax(written, large.spec, IMAGES)
    half = write_half(written, choose_fp32_nodes(written, amax))
    output, overflowed = run_as_half(half)
    assert not overflowed
    assert cosine(output, exact) > 0.999


@pytest.mark.parametrize("quantize", [False, True], ids=["fp16", "int8"])
def test_near_dead_columns_hold(vit, quantize):
    small = near_dead(vit)
    exact = run_onnx(small.model, IMAGES)
    model = small.model
    if quantize:
        table = small.calibrate(IMAGES, RECIPES["fast"])
        scales = [s for site in table.sites.values() for s in site.weight_scales]
        assert min(scales) == MIN_SCALE >= 6.1e-5
        model = write_qdq(small.model, table)
    output, overflowed = run_as_half(write_half(model))
    assert not overflowed
    assert cosine(output, exact) > (0.99 if quantize else 0.999)


def test_a_proof_says_what_was_run(vit):
    golden = Golden(IMAGES, run_onnx(vit.model, IMAGES))
    proof = prove_half(write_half(vit.model), vit.spec, golden)
    assert (proof.num_images, proof.float32_nodes) == (6, 0)
    assert 0.9999 < proof.cosine_min < 1
    assert HalfProof.from_bytes(proof.to_bytes()) == proof
    large = with_logits(vit)
    golden = Golden(IMAGES, run_onnx(large.model, IMAGES))
    with pytest.raises(BackendError, match="FP16 overflows at block1/scores"):
        prove_half(write_half(large.model), large.spec, golden)


@pytest.mark.parametrize("build", [residual_of_100_000, with_logits], ids=["residual", "logits"])
def test_int8_layers_stay_int8_beside_float32(vit, build):
    large = build(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    portable = write_qdq(large.model, large.calibrate(IMAGES, RECIPES["fast"]), is_symmetric=True)
    half = write_half(portable, chosen)
    onnx.checker.check_model(half, full_check=True)
    makers = {name: node for node in half.graph.node for name in node.output}
    for name in SITES:
        (site,) = [n for n in half.graph.node if n.name == name]
        assert [makers[i].op_type for i in site.input] == ["DequantizeLinear"] * 2
    output, overflowed = run_as_half(half)
    assert not overflowed
    assert cosine(output, run_onnx(portable, IMAGES)) > 0.999


def test_casts_stand_at_the_borders_alone(vit):
    large = with_logits(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    half = write_half(large.model, chosen)
    makers = {name: node for node in half.graph.node for name in node.output}
    casts = [n for n in half.graph.node if n.op_type == "Cast"]
    assert len(casts) > 3
    assert not [n for n in casts if n.input[0] in makers and makers[n.input[0]].op_type == "Cast"]


def test_a_constant_that_float16_loses_keeps_its_node(vit):
    tiny = edited(vit, lambda name, array: array * 1e-9 if name == "block0/Mul_2.1" else array)
    chosen = choose_fp32_nodes(tiny.model, observe_amax(tiny.model, tiny.spec, IMAGES))
    assert chosen["block0/Mul_2"].endswith("holds 5e-10, which float16 takes for 0")


def test_rounding_happens_at_every_node(vit):
    """A float16 run that kept float32 between nodes would be closer to float32 than this."""
    exact = run_onnx(vit.model, IMAGES)
    emulated, _ = run_as_half(write_half(vit.model))
    error = np.abs(emulated - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 1e-2
    assert np.array_equal(emulated, emulated.astype(np.float16).astype(np.float32))


@pytest.mark.uncounted
@pytest.mark.skipif(
    not rtx.HAS_RTX, reason="tensorrt_rtx comes with the dev extra on x86-64 Linux alone"
)
@pytest.mark.parametrize("build", [residual_of_100_000, with_logits], ids=["residual", "logits"])
def test_tensorrt_builds_graphs_of_both_types(vit, build):
    large = build(vit)
    chosen = choose_fp32_nodes(large.model, observe_amax(large.model, large.spec, IMAGES))
    portable = write_qdq(large.model, large.calibrate(IMAGES, RECIPES["fast"]), is_symmetric=True)
    assert rtx.build(write_half(large.model, chosen)).plan_bytes
    assert rtx.build(write_half(portable, chosen)).int8_layers(SITES) == set(SITES)


def test_nan_that_no_float16_node_makes_is_seen():
    """A square root left in float32, of less than nothing, is the output."""
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["half"], "to_half", to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Cast", ["half"], ["wide"], "to_float", to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Sqrt", ["wide"], ["y"], "root"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy"
    ]
    graph = onnx.helper.make_graph(nodes, "root", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 19)
    emulator = HalfEmulator(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10))
    assert emulator.run({"x": np.array([[1, 4, 9]], np.float32)})[1] == ()
    assert emulator.run({"x": np.array([[1, -4, 9]], np.float32)})[1] == ("the output",)


@pytest.mark.uncounted
@pytest.mark.parametrize("recipe", ["fast", "balanced"])
def test_one_calibration_image_that_overflows_is_enough(vit, recipe):
    usual = np.stack([np.full((32, 32, 3), 90 + level, np.uint8) for level in range(60)])
    rare = random_images(1, seed=3)
    digests = sorted(map(digest, usual))
    assert digest(rare[0]) > digests[16], "it must not be among those held out"
    model = with_rare_unit(vit, usual, rare[0])
    table = model.calibrate(np.concatenate([usual, rare]), RECIPES[recipe])
    assert "block0/fc1" in table.fp32_nodes
    golden = Golden(rare, run_onnx(model.model, rare))
    proof = prove_half(write_half(model.model, table.fp32_nodes), model.spec, golden)
    assert proof.cosine_min > 0.999
    with pytest.raises(BackendError, match="overflows"):
        prove_half(write_half(model.model), model.spec, golden)
    assert not model.calibrate(usual, RECIPES[recipe]).fp32_nodes
