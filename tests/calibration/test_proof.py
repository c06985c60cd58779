"""INT8 that collapsed says so, whatever made it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import pytest
from seeded import random_images, run_onnx

from edge_vit.bundle import Golden
from edge_vit.calibration.proof import prove_int8
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
