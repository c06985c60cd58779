"""Each layer's plan: what the numpy model of it computes, and what the search makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from layers import gram_of, layer_of
from seeded import SITES, Remembered, Seeded, random_images, run_onnx

from edge_vit.calibration import fallback
from edge_vit.calibration.block_walk import walk_blocks
from edge_vit.calibration.fallback import choose_fallback, choose_worthy, rank_fallback
from edge_vit.calibration.layer import keep_mean, plan_minmax
from edge_vit.calibration.layer_rows import LayerRows
from edge_vit.calibration.observer import observe
from edge_vit.calibration.output_error import run_outputs
from edge_vit.calibration.probe import BlockProbe
from edge_vit.calibration.rounding import Compensator
from edge_vit.calibration.steps import (
    Choice,
    correct_bias,
    make_plan,
    narrowest_useful,
    rounding_noise,
    scale_range,
    smoothings,
)
from edge_vit.data.images import ArraySource
from edge_vit.graph.expose import cut_below
from edge_vit.graph.sites import find_blocks
from edge_vit.lowering.qdq import write_qdq
from edge_vit.spec.table import RECIPES, FallbackPoint, Recipe

pytestmark = pytest.mark.uncounted

IMAGES = random_images(24)
BALANCED = RECIPES["balanced"]


def sqnr_db(exact, got) -> float:
    """Signal to quantization noise of the outputs as they are, in dB."""
    return 10 * math.log10(np.square(exact).sum() / np.square(exact - got).sum())


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    spread = random.normal(0, 1, (400, 32)) * random.uniform(0.2, 3, 32)
    return (spread + random.uniform(-4, 4, 32)).astype(np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(0, 0.1, (32, 16)).astype(np.float32)


def test_the_error_is_what_the_graph_would_make(rows, weight):
    layer = layer_of(rows, weight)
    plan = plan_minmax(layer)
    levels = np.clip(np.rint(rows / np.float32(plan.input_scale)), -128, 127)
    columns = np.rint(weight / plan.weight_scales)
    quantized = (levels * plan.input_scale) @ (columns * plan.weight_scales)
    expected = quantized - rows.astype(np.float64) @ weight
    np.testing.assert_allclose(LayerRows(layer, rows).output_error(plan), expected, atol=2e-5)


def test_shifting_is_looked_at_where_channels_are_off_centre(rows, weight):
    layer, first = layer_of(rows, weight), Choice(0.5)
    centred = Choice(0.5, is_shifted=True)
    assert centred in smoothings(layer, first, BALANCED)
    noise = {c: rounding_noise(layer, make_plan(layer, c, BALANCED)) for c in (first, centred)}
    assert noise[centred] < 0.6 * noise[first]
    assert smoothings(replace(layer, is_foldable=False), first, BALANCED) == []


def test_a_narrower_range_pays_where_one_value_is_far_out(rows, weight):
    rows[0, 0] = 60.0
    layer = layer_of(rows, weight, is_foldable=False, is_shiftable=False)
    plan = plan_minmax(layer)
    narrow = scale_range(plan, narrowest_useful(LayerRows(layer, rows), plan))
    assert narrow.high < plan.high
    assert narrow.low == -narrow.high


@pytest.mark.parametrize("size", [60.0, 300.0])
def test_units_that_cancel_cost_the_others_no_levels(rows, weight, size):
    rows = np.clip(rows, -4, 4)
    alone = layer_of(rows, weight, is_foldable=False, is_shiftable=False)
    pair = np.repeat(size + rows[:, :1], 2, axis=1)
    wide = np.concatenate([rows, pair], axis=1)
    row = np.full((1, 16), 0.1, np.float32)
    layer = layer_of(
        wide, np.concatenate([weight, row, -row]), is_foldable=False, is_shiftable=False
    )
    costs = []
    for some, inputs in ((layer, wide), (alone, rows)):
        tried, plan = LayerRows(some, inputs), plan_minmax(some)
        costs.append(tried.mean_square(scale_range(plan, narrowest_useful(tried, plan))))
    assert costs[0] < 2 * costs[1]


def test_bias_correction_leaves_no_mean_error(rows, weight):
    layer = layer_of(rows, weight, column_factors=np.full(16, 3.0, np.float32))
    layer = replace(layer, mean=rows.mean(axis=0, dtype=np.float64))
    plan = replace(plan_minmax(layer), low=-2.0, high=2.0)  # clips, so that it is off
    tried = LayerRows(layer, rows)
    assert np.abs(tried.output_error(plan).mean(axis=0)).max() > 0.01
    corrected = correct_bias(tried, keep_mean(layer, plan))
    assert np.abs(tried.output_error(corrected).mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("values", [0.0, 2.5], ids=["dead", "constant"])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_plans_stay_finite_on_channels_without_spread(rows, weight, values, is_shifted):
    rows[:, :4] = values
    layer = layer_of(rows, weight)
    gram = gram_of(rows)
    compensator = Compensator.of(gram, np.ones(32), is_centered=True)
    layer = replace(layer, compensator=compensator, mean=gram.mean)
    plan = make_plan(layer, Choice(0.5, is_shifted), BALANCED, compensated=True)
    plan = correct_bias(LayerRows(layer, rows), plan)
    assert np.isfinite(LayerRows(layer, rows).output_error(plan)).all()
    assert plan.input_scale > 0


def test_a_cut_graph_computes_what_the_whole_does(vit):
    image, graph = random_images(2), ir.from_proto(vit.model).graph
    block = find_blocks(graph)[1]
    root, site = block.root.name, block.sites[3].linear.output.name
    cut = cut_below(vit.model, [root], [site], ["logits"])
    exposed = onnx.ModelProto()
    exposed.CopyFrom(vit.model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("logits", *cut.feeds))
    logits, *values = ort.InferenceSession(exposed.SerializeToString()).run(None, {"images": image})
    lower = ort.InferenceSession(cut.model.SerializeToString())
    feeds = dict(zip(cut.feeds, values, strict=True))
    exact = lower.run(None, {**feeds, cut.errors[site]: np.zeros(1, np.float32)})[0]
    np.testing.assert_allclose(exact, logits, atol=1e-5)
    error = np.random.default_rng(0).normal(0, 0.1, 32).astype(np.float32)  # one per channel
    disturbed = lower.run(None, {**feeds, cut.errors[site]: error})[0]
    assert np.abs(disturbed - logits).max() > 1e-3
    assert len(cut.model.graph.node) < len(vit.model.graph.node)


def test_the_forecast_is_what_other_images_show(vit):
    table = vit.calibrate(random_images(64), replace(BALANCED, min_sqnr=0))
    images = random_images(48, seed=9)
    measured = sqnr_db(run_onnx(vit.model, images), run_onnx(write_qdq(vit.model, table), images))
    assert table.forecast.num_images == 16
    assert table.sqnr == table.forecast.sqnr == pytest.approx(measured, abs=2)
    chance = 0.5  # what 48 images leave open
    assert table.forecast.low - chance < measured < table.forecast.high + chance
    assert table.forecast.worst <= table.sqnr


def test_a_probe_sees_each_layer_alone(vit):
    random, images = np.random.default_rng(0), list(random_images(2))
    exact = list(run_outputs(vit.model, vit.spec, images))
    for block, states in walk_blocks(vit.model, vit.spec, images):
        probe = BlockProbe(vit.model, block, list(states), exact)
        for name, inputs in probe.inputs.items():
            linear = next(s.linear for s in block.sites if s.name == name)
            shape = len(inputs), linear.weight.shape[1]
            small = random.normal(0, 1e-3, shape).astype(np.float32)
            assert probe.error_of(name, np.zeros_like(small)).mean < 1e-10
            error = probe.error_of(name, small)
            assert error.mean > 1e-9
            assert error.worst >= error.mean
            assert probe.error_of(name, 2 * small).mean == pytest.approx(4 * error.mean, rel=0.1)
            first = probe.error_of(name, small, most=0.1 * error.mean)
            assert first.noise.tolist() == error.noise[:1].tolist()


def test_the_finished_plan_loses_to_no_simpler_one(vit):
    forecast = vit.calibrate(IMAGES, replace(BALANCED, min_sqnr=0)).forecast
    assert {"largest values", "smoothing alone"} <= {forecast.plan, *forecast.others}
    assert max(forecast.others.values()) < forecast.measured + 0.1


def test_held_out_images_leave_no_trace_in_the_ranges(vit):
    source = ArraySource(list(IMAGES))
    seen = observe(vit.model, vit.spec, source, hold_out=6)
    assert len(seen.held_out) == 6
    held = {image.tobytes() for image in seen.held_out}
    rest = [image for image in IMAGES if image.tobytes() not in held]
    assert len(rest) == len(IMAGES) - 6
    alone = observe(vit.model, vit.spec, ArraySource(rest))
    for site, expected in alone.ranges.items():
        np.testing.assert_array_equal(seen.ranges[site].low, expected.low)
        np.testing.assert_array_equal(seen.ranges[site].high, expected.high)


def test_no_step_is_taken_on_less_than_four_images(vit):
    for count, is_taken in ((15, False), (16, True)):
        table = vit.calibrate(random_images(count), BALANCED)
        tried = {table.forecast.plan, *table.forecast.others}
        assert ("without bias" in tried) == is_taken


def test_many_tokens_an_image_are_no_reason_to_hold_out_fewer(vit):
    large = Seeded(vit.model, replace(vit.spec, num_tokens=5000))
    forecast = large.calibrate(IMAGES, BALANCED).forecast
    assert "without bias" in {forecast.plan, *forecast.others}


def test_few_images_leave_headroom_where_channels_fold(vit):
    images = random_images(64)
    scales = {
        count: {
            name: site.activation_scale
            for name, site in vit.calibrate(images[:count], RECIPES["fast"]).sites.items()
        }
        for count in (63, 64)
    }
    for name in SITES:
        expected = 1.25 if not name.endswith("fc2") else 1.0  # nothing folds in front of fc2
        assert scales[63][name] / scales[64][name] == pytest.approx(expected, rel=0.02)


def test_which_images_are_held_out_does_not_depend_on_their_order_or_repetition(vit):
    shuffled = [*reversed(IMAGES), IMAGES[3]]
    first, second = (vit.calibrate(images, BALANCED) for images in (IMAGES, np.stack(shuffled)))
    for name, site in first.sites.items():  # the crest counts an image as often as it comes
        assert replace(second.sites[name], activation_crest=site.activation_crest) == site


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_few_images_suffice_for_a_table_and_for_no_forecast(vit, count):
    said = Remembered()
    table = vit.calibrate(random_images(count), replace(BALANCED, min_sqnr=90), said)
    assert len(table.sites) == len(SITES)
    assert table.forecast is None
    assert table.sqnr is None
    assert table.forecast_text.startswith(f"undecided with {count} different calibration image")
    assert sum(table.forecast_text in note for note in said.notes) == 1
    assert not any("90 dB wanted" in note for note in said.notes)
    assert np.isfinite(run_onnx(write_qdq(vit.model, table), random_images(2))).all()


def test_fallback_takes_the_layer_that_buys_most_per_multiply_add():
    errors = {"a": 4e-3, "b": 3e-3, "c": 1e-5}
    curve = rank_fallback(errors, {"a": 8.0, "b": 1.0, "c": 1.0})
    assert [point.site for point in curve] == ["b", "a", "c"]
    assert [point.share for point in curve] == pytest.approx([0.1, 0.9, 1.0])
    assert curve[0].sqnr == pytest.approx(-10 * math.log10(4.01e-3))
    assert curve[-1].sqnr == 200.0


def test_a_layer_too_large_for_the_budget_is_no_reason_to_stop():
    errors = {"a": 4e-3, "b": 3e-4, "c": 2e-4, "d": 1e-5}
    curve = rank_fallback(errors, {"a": 8.0, "b": 1.0, "c": 1.0, "d": 1.0}, max_share=0.2)
    assert [point.site for point in curve] == ["b", "c", "a", "d"]
    assert choose_fallback(curve, 20.0, 40.0, 0.2) == ("b", "c")


@pytest.mark.parametrize(
    ("min_sqnr", "max_share", "expected"),
    [(20, 1.0, ()), (23, 1.0, ("b",)), (40, 1.0, ("b", "a")), (40, 0.5, ("b",)), (40, 0.05, ())],
)
def test_fallback_is_as_small_as_the_wanted_accuracy_allows(min_sqnr, max_share, expected):
    curve = (
        FallbackPoint("b", 0.1, 24.0),
        FallbackPoint("a", 0.9, 50.0),
        FallbackPoint("c", 1.0, 200.0),
    )
    assert choose_fallback(curve, 21.5, min_sqnr, max_share) == expected


def test_layers_stay_in_floating_point_while_they_gain_enough_for_their_work():
    curve = (FallbackPoint("a", 0.02, 31.0), FallbackPoint("b", 0.06, 32.0))
    curve = (*curve, FallbackPoint("c", 0.08, 32.1), FallbackPoint("d", 0.09, 34.0))
    assert choose_worthy(curve, 30.0, 0.2, 0.1) == ("a", "b")
    assert choose_worthy(curve, 30.0, 0.4, 0.1) == ("a",)
    assert choose_worthy(curve, 30.0, 0.2, 0.05) == ("a",)
    assert choose_worthy(curve, 30.0, 0.6, 0.1) == ()
    assert choose_worthy(curve, 30.0, 0.2, 0.1, most=31.0) == ("a",)
    assert choose_worthy(curve, 30.0, 0.2, 0.1, most=30.0) == ()


def test_a_layer_just_below_what_is_asked_does_not_hide_the_next():
    curve = (FallbackPoint("a", 0.03, 33.0), FallbackPoint("b", 0.06, 33.55))
    curve = (*curve, FallbackPoint("c", 0.09, 34.2))
    assert choose_worthy(curve, 31.7, 0.2, 0.1) == ("a", "b", "c")


def test_no_layer_stays_in_floating_point_for_its_worth_where_enough_is_left(vit, monkeypatch):
    bare = replace(BALANCED, steps=(), strengths=(), kept_channels=0, tries_rotation=False)
    recipe = replace(bare, min_sqnr=0, min_worth=1e-3, max_fallback=0.3)
    found = []
    for enough, worst in ((10, 10), (200, 10), (10, 200)):
        monkeypatch.setattr(fallback, "ENOUGH", enough)
        monkeypatch.setattr(fallback, "ENOUGH_WORST", worst)
        sites = vit.calibrate(IMAGES, recipe).sites.values()
        found.append(sum("costs the output" in site.reason for site in sites))
    assert found[0] == 0 < found[1] == found[2]


def test_a_layer_far_worse_than_all_others_stays_in_floating_point(vit):
    """One hidden unit reaches far beyond the others, and the output reads it."""
    bare = replace(BALANCED, steps=(), strengths=(), kept_channels=0)
    recipe = replace(bare, min_worth=0.2, max_fallback=0.3)
    outlier = onnx.ModelProto()
    outlier.CopyFrom(vit.model)
    layers = {s.name: s.linear for s in find_blocks(ir.from_proto(vit.model).graph)[0].sites}
    fc1, fc2 = (layers[f"block0/{role}"].matmul.inputs[1].name for role in ("fc1", "fc2"))
    for tensor in outlier.graph.initializer:
        if tensor.name in (fc1, fc2):
            weight = onnx.numpy_helper.to_array(tensor).copy()
            unit = weight[:, 0] if tensor.name == fc1 else weight[0]
            unit *= 200 if tensor.name == fc1 else 0.05
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    kept, said = {}, Remembered()
    for name, model in (("plain", vit), ("outlier", Seeded(outlier, vit.spec))):
        table = model.calibrate(IMAGES, recipe, said if name == "outlier" else Remembered())
        kept[name] = {n for n, s in table.sites.items() if "costs the output" in s.reason}
        for others in table.forecast.others.values():
            assert table.forecast.measured > others - 0.1
    assert kept == {"plain": set(), "outlier": {"block0/fc2"}}
    assert any("block0/fc2 stays in FP16" in note for note in said.notes)


def test_layers_that_cost_too_much_stay_in_floating_point(vit):
    plain = vit.calibrate(IMAGES, replace(BALANCED, min_sqnr=0, min_worth=0))
    wanted = plain.sqnr + 1.0
    recipe = replace(BALANCED, min_sqnr=wanted, min_worth=0, max_fallback=1.0)
    table = vit.calibrate(IMAGES, recipe)
    kept = {name for name, site in plain.sites.items() if site.precision == "fp16"}
    assert kept == {"block1/proj", "block1/fc1", "block1/fc2"}  # one token is read from them
    spared = {name for name, site in table.sites.items() if site.precision == "fp16"} - kept
    assert 0 < len(spared) < len(SITES) - len(kept)
    assert spared == {point.site for point in table.fallback[: len(spared)]}
    assert table.sqnr >= wanted
    images = random_images(32, seed=5)
    exact = run_onnx(vit.model, images)
    assert sqnr_db(exact, run_onnx(write_qdq(vit.model, table), images)) > sqnr_db(
        exact, run_onnx(write_qdq(vit.model, plain), images)
    )


def test_a_layer_left_in_floating_point_computes_what_it_did_in_fp32(vit):
    """Its bias is not corrected for an INT8 that it has not got."""
    recipe = replace(BALANCED, steps=("bias",), min_sqnr=199.0, max_fallback=1.0)
    table = vit.calibrate(IMAGES, recipe)
    assert {site.precision for site in table.sites.values()} == {"fp16"}
    images = random_images(4, seed=5)
    exact = run_onnx(vit.model, images)
    assert sqnr_db(exact, run_onnx(write_qdq(vit.model, table), images)) > 90
    assert not any("bias" in step for site in table.sites.values() for step in site.steps)


@pytest.mark.parametrize(
    "fields",
    [{"steps": ("bias",)}, {"min_sqnr": 20.0}],
    ids=["steps", "fallback"],
)
def test_steps_without_anything_to_look_at_are_refused(fields):
    with pytest.raises(Exception, match="search_tokens"):
        Recipe("own", **fields)


def test_accuracy_that_fallback_cannot_reach_is_said(vit):
    said = Remembered()
    recipe = replace(BALANCED, min_sqnr=90.0, keeps_single_tokens=True)
    table = vit.calibrate(IMAGES, recipe, said)
    (note,) = [note for note in said.notes if "wanted" in note]
    assert table.fallback and len(table.fallback) < len(table.sites)
    num_half = sum(not site.is_quantized for site in table.sites.values())
    assert num_half >= 3 and f"even with {num_half} of its layers in FP16" in note
    assert "below the 90 dB wanted" in note
    assert "FP16 alone is likely the precision for this model; edgevit verify decides" in note


def test_accuracy_that_the_interval_leaves_open_is_undecided(vit):
    recipe, said = replace(BALANCED, max_fallback=0.0), Remembered()
    forecast = vit.calibrate(IMAGES, replace(recipe, min_sqnr=0)).forecast
    wanted = round((forecast.low + forecast.sqnr) / 2, 1)
    assert vit.calibrate(IMAGES, replace(recipe, min_sqnr=wanted), said).forecast == forecast
    (note,) = [note for note in said.notes if "wanted" in note]
    assert f"forecast at {forecast}, which may be below the {wanted:g} dB wanted" in note
    assert "That is undecided" in note and "FP16 alone" not in note
