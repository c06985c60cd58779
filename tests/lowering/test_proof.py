"""INT8 that collapsed says so, whatever made it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
import small_vits
import torch
from seeded import ALL_INT8, Remembered, Seeded, make_seeded, random_images, run_onnx
from traced import trace_small

from edge_vit.bundle import Golden
from edge_vit.bundle.record import SAMPLE_PHOTOGRAPHS, HalfProof
from edge_vit.calibration.output_error import OutputError
from edge_vit.export.canonical import make_canonical
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.proof import (
    Int8Proof,
    note_below_forecast,
    note_lost_in_half,
    prove_int8,
    prove_int8_in_half,
)
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import RECIPES, CalibrationTable

GOOD_HALF = HalfProof(6, 0.999999, 0)


@pytest.fixture(scope="module")
def golden(vit) -> Golden:
    images = random_images(6, seed=8)
    return Golden(images, run_onnx(vit.model, images))


@pytest.fixture(scope="module")
def table(vit) -> CalibrationTable:
    return vit.calibrate(random_images(32), RECIPES["fast"])


def test_sound_int8_passes(vit, table, golden):
    proof = prove_int8(write_qdq(vit.model, table), vit.spec, golden)
    assert not proof.is_collapsed
    assert str(proof) == f"INT8: {proof.sqnr:.1f} dB SQNR with fp32 on 6 golden images"


def test_a_collapse_shows_with_what_to_do(vit, table, golden):
    sites = {
        name: dataclasses.replace(site, activation_scale=site.activation_scale * 16)
        for name, site in table.sites.items()
    }
    coarse = write_qdq(vit.model, dataclasses.replace(table, sites=sites))
    proof = prove_int8(coarse, vit.spec, golden)
    assert proof.is_collapsed
    assert "FP16 is the precision for this model" in str(proof)


def test_nan_is_a_collapse(vit, table, golden):
    broken = onnx.ModelProto()
    broken.CopyFrom(write_qdq(vit.model, table))
    head = broken.graph.node[-1]
    (name,) = [i for i in head.input if i in {c.name for c in broken.graph.initializer}][:1]
    (constant,) = [c for c in broken.graph.initializer if c.name == name]
    nan = np.full(tuple(constant.dims), np.nan, np.float32)
    constant.CopyFrom(onnx.numpy_helper.from_array(nan, name))
    proof = prove_int8(broken, vit.spec, golden)
    assert proof.sqnr == -math.inf
    assert proof.is_collapsed


def test_a_fixed_batch_is_filled(static_vit, table, golden):
    assert not prove_int8(write_qdq(static_vit.model, table), static_vit.spec, golden).is_collapsed


def test_the_graph_for_tensorrt_is_tried_too(vit, table, golden):
    half = write_half(write_qdq(vit.model, table, is_symmetric=True))
    proof = prove_int8(write_qdq(vit.model, table), vit.spec, golden)
    in_half = prove_int8_in_half(half, vit.spec, golden)
    assert in_half.sqnr > proof.sqnr - 2
    assert note_lost_in_half(proof, in_half, GOOD_HALF) == ""
    for constant in half.graph.initializer:
        if constant.name == "block0/fc2/centre.1/half":
            huge = np.array(-60_000, np.float16)  # the product of it overflows
            constant.CopyFrom(onnx.numpy_helper.from_array(huge, constant.name))
    (scale,) = [c for c in half.graph.initializer if c.name == "block0/fc2/input_scale/half"]
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(60_000, np.float16), scale.name))
    assert prove_int8_in_half(half, vit.spec, golden).sqnr == -math.inf


@pytest.mark.parametrize(("sqnr", "words"), [(36.0, "comes to 36.0 dB"), (-math.inf, "overflows")])
def test_what_float16_loses_is_said(sqnr, words):
    assert words in note_lost_in_half(Int8Proof(6, 40.0), Int8Proof(6, sqnr), GOOD_HALF)


def test_what_float16_loses_of_plenty_is_not_reported():
    assert note_lost_in_half(Int8Proof(6, 70.8), Int8Proof(6, 60.0), GOOD_HALF) == ""
    assert note_lost_in_half(Int8Proof(6, 56.0), Int8Proof(6, 49.0), GOOD_HALF)


def test_what_fp16_loses_without_int8_is_no_fault_of_the_recipe():
    half = HalfProof(6, 1 - 4e-4, 0)  # 31 dB
    assert note_lost_in_half(Int8Proof(6, 60.0), Int8Proof(6, 30.0), half) == ""
    assert "26.0 dB" in note_lost_in_half(Int8Proof(6, 60.0), Int8Proof(6, 26.0), half)


EVEN, UNEVEN = (41.0, 40.0, 39.5, 41.5), (24.0, 55.0, 57.0, 60.0)


@pytest.mark.parametrize(
    ("sqnr", "by_image", "forecast", "words"),
    [
        pytest.param(40.0, EVEN, 41.0, "", id="as forecast"),
        pytest.param(40.0, EVEN, None, "", id="nothing was forecast"),
        pytest.param(48.0, EVEN, 41.0, "", id="better than forecast"),
        pytest.param(33.0, (33.0,) * 4, 40.0, "forecast at 40.0 dB and comes to 33.0", id="below"),
        pytest.param(30.0, UNEVEN, 34.0, "come to 56.0 dB, the worst to 24.0", id="a few images"),
        pytest.param(50.0, (44.0, 60.0, 61.0, 62.0), 50.0, "", id="a few, and harmless"),
        pytest.param(15.0, EVEN, 40.0, "", id="a collapse, which says so itself"),
    ],
)
def test_what_is_below_the_forecast_is_reported(sqnr, by_image, forecast, words):
    said = note_below_forecast(Int8Proof(4, sqnr, by_image), forecast)
    assert words in said
    assert bool(said) == bool(words)
    assert ("edgevit verify" in said) == bool(words)


def test_photographs_that_nobody_calibrated_on_are_no_reason_to_doubt_the_forecast():
    said = Int8Proof(4, 33.0, (33.0,) * 4, SAMPLE_PHOTOGRAPHS)
    assert str(said) == "INT8: 33.0 dB SQNR with fp32 on 4 sample photographs"
    assert note_below_forecast(said, 45.0) == ""
    collapsed = str(dataclasses.replace(said, sqnr=12.0))
    assert "none of the deployment's" in collapsed
    assert "edgevit verify" in collapsed
    assert "FP16 is the precision" not in collapsed


@pytest.mark.uncounted
@pytest.mark.parametrize("noise", [0.1, math.inf])
def test_a_collapse_on_calibration_images_is_said(vit, monkeypatch, noise):
    error, said = OutputError(np.full((8, 1), noise), np.ones((8, 1))), Remembered()
    monkeypatch.setattr("edge_vit.calibration.judge.measure_table", lambda *_, **__: error)
    table = vit.calibrate(random_images(32), RECIPES["balanced"], said)
    assert table.sqnr == pytest.approx(max(error.sqnr - 1.2, -60.0))
    (note,) = [note for note in said.notes if "16 calibration images" in note]
    assert "too little to predict as fp32 does" in note


@pytest.mark.uncounted
@pytest.mark.parametrize(("factor", "is_said"), [(1, False), (300, True)])
def test_a_residual_stream_of_one_channel_is_said(factor, is_said):
    """Its norms then hang on the sign of that channel: images where it is near zero lose most."""
    module, size = small_vits.SmallViT(scale=small_vits.LayerScale), small_vits.SIZE
    vit = make_seeded(module, size, small_vits.CLASSES)
    with torch.no_grad():
        module.blocks[1].scale1.gamma[5] *= factor
    proto = trace_small(module.eval(), (size, size))
    model = make_canonical(proto, vit.spec.preprocess, "classification").model
    spec = dataclasses.replace(vit.spec, num_tokens=50)  # so that 16 images are held out
    said = Remembered()
    # No step that could find a plan without the loss, only smoothing and the check of it.
    recipe = dataclasses.replace(
        ALL_INT8["balanced"], steps=(), strengths=(), is_compensated=False, tries_rotation=False
    )
    Seeded(model, spec).calibrate(random_images(64, size=size), recipe, said)
    assert any("INT8 loses most on a few images" in note for note in said.notes) == is_said
