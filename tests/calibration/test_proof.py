"""INT8 that collapsed says so, whatever made it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
from seeded import random_images, run_onnx

from edge_vit.bundle import Golden
from edge_vit.calibration.half import write_half
from edge_vit.calibration.proof import (
    Int8Proof,
    prove_int8,
    prove_int8_in_half,
    say_lost_in_half,
)
from edge_vit.calibration.qdq import write_qdq
from edge_vit.table import RECIPES, CalibrationTable


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
    assert say_lost_in_half(proof, in_half) == ""
    for constant in half.graph.initializer:
        if constant.name == "block0/fc2/centre.1/half":
            huge = np.array(-60_000, np.float16)  # the product of it overflows
            constant.CopyFrom(onnx.numpy_helper.from_array(huge, constant.name))
    (scale,) = [c for c in half.graph.initializer if c.name == "block0/fc2/input_scale/half"]
    scale.CopyFrom(onnx.numpy_helper.from_array(np.array(60_000, np.float16), scale.name))
    assert prove_int8_in_half(half, vit.spec, golden).sqnr == -math.inf


@pytest.mark.parametrize(("sqnr", "words"), [(36.0, "comes to 36.0 dB"), (-math.inf, "overflows")])
def test_what_float16_loses_is_said(sqnr, words):
    assert words in say_lost_in_half(Int8Proof(6, 40.0), Int8Proof(6, sqnr))
