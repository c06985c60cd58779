"""An activation on one side of zero: all its levels used, and the same levels on every runtime."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import rtx
from layers import layer_of
from onnx import numpy_helper
from seeded import SITES, Seeded, random_images, run_onnx, sqnr_db

from edge_vit.calibration.layer import give_zero_point, plan_minmax
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.errors import SpecError
from edge_vit.lowering import ort_x64
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import HalfEmulator
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import RECIPES, CalibrationTable, SiteScales

IMAGES, SEEN = random_images(24, seed=3), random_images(64)
BEHIND_GELU = tuple(site for site in SITES if site.endswith("fc2"))
NO_SHIFT = {"is_foldable": False, "is_shiftable": False}


@pytest.fixture(scope="module")
def table(vit: Seeded) -> CalibrationTable:
    return vit.calibrate(SEEN, RECIPES["fast"])


@pytest.fixture
def gelu_rows() -> np.ndarray:
    """Rows (400, 32) as GELU leaves them: from -0.17 to a few."""
    x = np.random.default_rng(0).normal(0, 1.5, (400, 32))
    return (0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))).astype(np.float32)


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, (32, 16)).astype(np.float32)


def test_they_are_given_behind_gelu_and_there_alone(table):
    zeros = {name: site.activation_zero for name, site in table.sites.items()}
    assert {name for name, zero in zeros.items() if zero} == set(BEHIND_GELU)
    assert all(zeros[name] < -100 for name in BEHIND_GELU)  # nearly all levels are positive


def test_recipes_for_comparison_are_symmetric(vit):
    for name in ("minmax", "percentile", "symmetric"):
        table = vit.calibrate(SEEN[:4], RECIPES[name])
        assert not any(site.activation_zero for site in table.sites.values())


def test_they_halve_the_step_and_quarter_the_noise(gelu_rows, weight):
    layer = layer_of(gelu_rows, weight, **NO_SHIFT)
    symmetric = plan_minmax(layer)
    plan = give_zero_point(layer, symmetric)
    assert plan.input_scale < 0.55 * symmetric.input_scale
    noises = [LayerRows(layer, gelu_rows).mean_square(p) for p in (plan, symmetric)]
    assert noises[0] < 0.45 * noises[1]  # weights add their part to both


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (2.5, 2.5), (-3.0, -3.0), (0.0, 60_000.0), (-0.1, 1e-9)]
)
def test_zero_stays_a_level_whatever_the_range(low, high, weight):
    ends = {"low": np.full(32, low, np.float32), "high": np.full(32, high, np.float32)}
    layer = layer_of(np.zeros((1, 32)), weight, **NO_SHIFT, **ends)
    plan = give_zero_point(layer, plan_minmax(layer))
    assert -127 <= plan.input_zero <= 127
    rows = LayerRows(layer, np.zeros((1, 32), np.float32))
    assert np.abs(rows.output_error(plan)).max() == 0


@pytest.mark.parametrize(
    ("facts", "is_given"), [({"has_bias": False}, True), ({"is_shiftable": True}, False)]
)
def test_none_is_given_where_channels_can_be_shifted(gelu_rows, weight, facts, is_given):
    layer = layer_of(gelu_rows, weight, **(NO_SHIFT | facts))
    assert bool(give_zero_point(layer, plan_minmax(layer)).input_zero) == is_given


def test_none_is_given_where_float16_would_lose_more_to_the_centre():
    """All columns sum to a large number: product and bias hold it, of opposite signs."""
    rows = np.abs(np.random.default_rng(0).normal(0, 1, (64, 512))).astype(np.float32)
    mixed = np.random.default_rng(1).normal(0, 0.1, (512, 16)).astype(np.float32)
    zeros = []
    for weight_here in (mixed, mixed + 0.2):
        layer = layer_of(rows, weight_here, **NO_SHIFT)
        zeros.append(give_zero_point(layer, plan_minmax(layer)).input_zero)
    assert zeros == [-127, 0]


@pytest.mark.parametrize(("scale", "is_given"), [(1e3, True), (1e5, False), (1e6, False)])
def test_none_is_given_where_float16_cannot_hold_the_centre(gelu_rows, weight, scale, is_given):
    weight = weight - weight.mean(axis=0)  # so that the bias is no matter
    layer = layer_of(gelu_rows * np.float32(scale), weight / scale, **NO_SHIFT)
    assert bool(give_zero_point(layer, plan_minmax(layer)).input_zero) == is_given


def test_what_is_subtracted_is_what_float16_holds(vit, table):
    graph = write_qdq(vit.model, table, is_symmetric=True).graph
    centres = [numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("/centre.1")]
    assert len(centres) == len(BEHIND_GELU)
    assert all(np.float32(np.float16(centre)) == centre for centre in centres)


def test_a_graph_without_zero_points_has_the_same_levels(vit, table):
    with_zeros = run_onnx(write_qdq(vit.model, table), IMAGES)
    without = run_onnx(write_qdq(vit.model, table, is_symmetric=True), IMAGES)
    exact = run_onnx(vit.model, IMAGES)
    # A value on the border of two levels may fall to either side, and only there do they differ.
    assert sqnr_db(with_zeros, without) > sqnr_db(exact, with_zeros) + 6
    half = write_half(write_qdq(vit.model, table, is_symmetric=True))
    outputs, overflowed = HalfEmulator(half).run({"images": IMAGES})
    emulated = next(iter(outputs.values()))
    assert not overflowed
    assert sqnr_db(exact, emulated) > sqnr_db(exact, with_zeros) - 2  # FP16 costs 1 without, too


def test_the_noise_of_the_whole_model_falls(vit, table):
    exact = run_onnx(vit.model, IMAGES)
    sites = {
        name: dataclasses.replace(
            site, activation_zero=0, activation_scale=site.activation_amax / 127
        )
        if site.activation_zero
        else site
        for name, site in table.sites.items()
    }
    symmetric = run_onnx(write_qdq(vit.model, dataclasses.replace(table, sites=sites)), IMAGES)
    assert sqnr_db(exact, run_onnx(write_qdq(vit.model, table), IMAGES)) > sqnr_db(exact, symmetric)


def test_onnx_runtimes_own_form_has_them_too(vit, table, monkeypatch):
    monkeypatch.setattr(ort_x64, "fold_pixels", lambda graph: False)  # the same tokens to the bit
    portable = write_qdq(vit.model, table)
    expected = run_onnx(portable, IMAGES)
    got = run_onnx(write_ort_x64(portable), IMAGES)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.skipif(not rtx.HAS_RTX, reason="tensorrt_rtx is not installed")
def test_tensorrt_builds_the_graph_without_them_and_refuses_the_other(vit, table):
    symmetric = write_qdq(vit.model, table, is_symmetric=True)
    assert rtx.build(write_half(symmetric)).int8_layers(SITES) == set(SITES)
    with pytest.raises(rtx.BuildRefusedError, match="zero point"):
        rtx.build(write_half(write_qdq(vit.model, table)))


def test_a_zero_point_out_of_int8_is_refused():
    with pytest.raises(SpecError, match="zero point: got 128, expected -127 to 127"):
        SiteScales("int8", "", 1.0, (1.0,), 1.0, 1.0, activation_zero=128)


@pytest.mark.parametrize("channels", [(), (3, 17)])
def test_a_layer_without_a_bias_gets_one_where_it_undoes_the_centre(vit, table, channels):
    model, name = type(vit.model)(), "block0/fc2"
    model.CopyFrom(vit.model)
    (product,) = [n for n in model.graph.node if n.name == name]
    (add,) = [n for n in model.graph.node if product.output[0] in n.input]
    product.output[0] = add.output[0]
    model.graph.node.remove(add)
    site = dataclasses.replace(table.sites[name], kept_channels=channels)
    assert site.activation_zero
    table = dataclasses.replace(table, sites={**table.sites, name: site})
    portable, symmetric = (write_qdq(model, table, is_symmetric=each) for each in (False, True))
    names = [{node.name for node in graph.graph.node} for graph in (portable, symmetric)]
    assert [f"{name}/undo_centre" in each for each in names] == [False, True]
    exact, with_zeros = run_onnx(model, IMAGES), run_onnx(portable, IMAGES)
    assert sqnr_db(with_zeros, run_onnx(symmetric, IMAGES)) > sqnr_db(exact, with_zeros) + 6
    outputs, overflowed = HalfEmulator(write_half(symmetric)).run({"images": IMAGES})
    assert not overflowed
    assert sqnr_db(exact, next(iter(outputs.values()))) > sqnr_db(exact, with_zeros) - 2
    if rtx.HAS_RTX:
        assert rtx.build(write_half(symmetric)).int8_layers(SITES) == set(SITES)
