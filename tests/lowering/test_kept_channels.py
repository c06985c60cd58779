"""Some channels of a layer's input in floating point, beside the quantized product."""

from __future__ import annotations

import dataclasses

import kernels
import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest
import rtx
from layers import layer_of
from onnx import numpy_helper
from seeded import SITES, Seeded, random_images, run_onnx, sqnr_db

from edge_vit.calibration.layer import exact_weight, round_weight
from edge_vit.calibration.layer_rows import LayerRows, round_to_levels
from edge_vit.calibration.layer_search import is_worth_keeping
from edge_vit.calibration.observer import observe
from edge_vit.calibration.output_error import OutputError
from edge_vit.calibration.steps import Choice, make_plan
from edge_vit.data.images import ArraySource
from edge_vit.errors import ArtifactError, SpecError
from edge_vit.graph import walk
from edge_vit.graph.sites import find_sites
from edge_vit.lowering import ort_x64
from edge_vit.lowering.dead_tokens import drop_dead_tokens
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import HalfEmulator, choose_split_nodes
from edge_vit.lowering.ort_x64 import write_ort_x64
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.cpu import has_vnni
from edge_vit.runtime.trt.api import open_api
from edge_vit.runtime.trt.audit import audit_network
from edge_vit.spec.table import RECIPES, CalibrationTable, SiteScales

IMAGES = random_images(24, seed=3)
WIDE, WIDTH = "block0/fc2", 128


@pytest.fixture(scope="module")
def table(vit: Seeded) -> CalibrationTable:
    return vit.calibrate(random_images(64), RECIPES["fast"])


def keep(table: CalibrationTable, channels, names=(WIDE,)) -> CalibrationTable:
    sites = {
        name: dataclasses.replace(site, kept_channels=tuple(channels)) if name in names else site
        for name, site in table.sites.items()
    }
    return dataclasses.replace(table, sites=sites)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_with_every_channel_kept_the_layer_computes_as_in_floating_point(vit, table, is_symmetric):
    site = dataclasses.replace(table.sites[WIDE], precision="fp16")
    bare = dataclasses.replace(table, sites={**table.sites, WIDE: site})
    kept = keep(table, range(WIDTH))
    expected = run_onnx(write_qdq(vit.model, bare, is_symmetric=is_symmetric), IMAGES)
    got = run_onnx(write_qdq(vit.model, kept, is_symmetric=is_symmetric), IMAGES)
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())


def test_each_form_of_the_graph_computes_the_same(vit, table, monkeypatch):
    monkeypatch.setattr(ort_x64, "fold_pixels", lambda graph: False)  # the same tokens to the bit
    kept = keep(table, (3, 17, 30), SITES)
    portable = write_qdq(vit.model, kept)
    expected, exact = run_onnx(portable, IMAGES), run_onnx(vit.model, IMAGES)
    own = run_onnx(write_ort_x64(portable), IMAGES)
    np.testing.assert_allclose(own, expected, atol=1e-4 * np.abs(expected).max())
    half = write_half(write_qdq(vit.model, kept, is_symmetric=True))
    outputs, overflowed = HalfEmulator(half).run({"images": IMAGES})
    assert not overflowed
    emulated = next(iter(outputs.values()))
    assert sqnr_db(exact, emulated) > sqnr_db(exact, expected) - 2


def test_kept_channels_count_once_where_weights_are_not_rounded(vit, table):
    every = keep(table, range(WIDTH))
    site = dataclasses.replace(table.sites[WIDE], precision="fp16")
    bare = dataclasses.replace(table, sites={**table.sites, WIDE: site})
    got, expected = (
        run_onnx(write_qdq(vit.model, each, rounds_weights=False), IMAGES) for each in (every, bare)
    )
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())


def test_channels_of_a_layer_that_float16_cannot_hold_stay_in_float32(vit, table):
    """Hidden units reach 1e5 times as far; fc2 undoes it, so that the function stays."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    linear = next(s.linear for s in find_sites(ir.from_proto(model).graph) if s.name == WIDE)
    place = next(i for i, n in enumerate(model.graph.node) if n.name == linear.matmul.name)
    node, size = model.graph.node[place], np.float32(1e5)
    tensors = {t.name: t for t in model.graph.initializer}
    weight = numpy_helper.from_array(linear.weight / size, node.input[1])
    tensors[node.input[1]].CopyFrom(weight)
    model.graph.initializer.append(numpy_helper.from_array(size, "size"))
    grown = onnx.helper.make_node("Mul", [node.input[0], "size"], ["grown"], "grown")
    node.input[0] = "grown"
    model.graph.node.insert(place, grown)
    large = Seeded(model, vit.spec)
    kept = keep(large.calibrate(random_images(16), RECIPES["fast"]), (3, 17, 30))
    assert {WIDE, f"{WIDE}/kept_product"} <= kept.int8_fp32_nodes.keys()
    half = write_half(write_qdq(model, kept, is_symmetric=True), kept.int8_fp32_nodes)
    outputs, overflowed = HalfEmulator(half).run({"images": IMAGES})
    assert not overflowed
    exact = run_onnx(model, IMAGES)
    portable = run_onnx(write_qdq(model, kept), IMAGES)
    assert sqnr_db(exact, next(iter(outputs.values()))) > sqnr_db(exact, portable) - 2


def test_parts_of_a_sum_that_cancel_are_each_held_in_float16(vit, table):
    """Two hidden units are the same, and fc2 takes 3,000 times their difference."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    sites = {s.name: s.linear for s in find_sites(ir.from_proto(model).graph)}
    (fc1, fc2), tensors = (sites["block0/fc1"], sites[WIDE]), model.graph.initializer
    places = {t.name: i for i, t in enumerate(tensors)}
    weight, bias, wide = fc1.weight.copy(), fc1.bias.copy(), fc2.weight.copy()
    weight[:, [3, 5]], bias[[3, 5]], wide[[3, 5]] = 50 * weight[:, [3]], 0, [[3e3], [-3e3]]
    bias_name = next(v.name for v in fc1.add.inputs if v.name in places)
    pairs = (
        (fc1.matmul.inputs[1].name, weight),
        (bias_name, bias),
        (fc2.matmul.inputs[1].name, wide),
    )
    for name, value in pairs:
        shape = tensors[places[name]].dims
        tensors[places[name]].CopyFrom(numpy_helper.from_array(value.reshape(shape), name))
    found = Seeded(model, vit.spec).calibrate(IMAGES, RECIPES["fast"])
    seen = observe(model, vit.spec, ArraySource(IMAGES)).stats
    reach, kept = {WIDE: seen[WIDE].channel_amax}, keep(found, (3,))
    split = choose_split_nodes(model, kept.sites, reach)
    parts = {f"{WIDE}/kept_product", f"{WIDE}/add_kept", fc2.matmul.name, fc2.add.name}
    assert split.keys() == parts
    assert not parts & found.fp32_nodes.keys()
    whole = dataclasses.replace(kept, split_fp32_nodes=split)
    for each, is_held in ((kept, False), (whole, True)):
        half = write_half(write_qdq(model, kept, is_symmetric=True), each.int8_fp32_nodes)
        assert bool(HalfEmulator(half).run({"images": IMAGES})[1]) != is_held
    assert choose_split_nodes(vit.model, keep(table, (3,)).sites, reach) == {}


@pytest.mark.parametrize("names", [("block1/fc2",), ("block1/proj", "block1/fc2")])
def test_kept_channels_are_of_the_token_that_is_read(vit, table, names):
    opened = ir.from_proto(write_qdq(vit.model, keep(table, (3, 17, 30), names)))
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(opened)
    assert drop_dead_tokens(opened.graph)
    taken = [node for node in opened.graph if node.name.endswith("/take_kept")]
    assert [walk.dims_of(node.outputs[0])[1:] for node in taken] == [(1, 3)] * len(names)


@pytest.mark.parametrize(
    ("old", "new", "is_kept"),
    [(1e-3, 7e-4, True), (1e-3, 9e-4, False), (4e-6, 1e-6, True), (4e-6, 2.5e-6, False)],
)
def test_channels_are_kept_where_the_output_gains_much_of_what_counts(old, new, is_kept):
    before, after = (OutputError(np.full((4, 1), e), np.ones((4, 1))) for e in (old, new))
    assert is_worth_keeping(after, before) == is_kept


def test_cpu_runtimes_still_run_every_layer_in_int8(vit, table, tmp_path):
    portable = write_qdq(vit.model, keep(table, (3, 17, 30), SITES))
    assert kernels.onnx_runtime_products(portable, tmp_path).int8 == set(SITES)
    own = kernels.onnx_runtime_products(write_ort_x64(portable), tmp_path)
    assert own.int8 == {*SITES, "embed/pixels"}
    if has_vnni():
        assert kernels.openvino_products(portable).int8 == set(SITES)


@pytest.mark.skipif(not rtx.HAS_RTX, reason="tensorrt_rtx is not installed")
def test_tensorrt_still_builds_every_layer_in_int8(vit, table):
    kept = write_qdq(vit.model, keep(table, (3, 17, 30), SITES), is_symmetric=True)
    assert rtx.build(write_half(kept)).int8_layers(SITES) == set(SITES)
    audit = audit_network(tuple(open_api("rtx").parse(write_half(kept).SerializeToString()).layers))
    products = {n: p.macs for n, p in audit.products.items() if n.endswith("/kept_product")}
    assert len(products) == len(SITES)
    assert audit.macs["fp16"] > sum(products.values()) > 0


def test_an_outlier_leaves_the_range_of_what_is_quantized_and_none_of_its_effect():
    random = np.random.default_rng(0)
    rows = np.abs(random.normal(size=(300, 32))).astype(np.float32)
    rows[:, 5] *= 100
    weight = random.normal(0, 0.1, (32, 16)).astype(np.float32)
    layer = layer_of(rows, weight, is_foldable=False, is_shiftable=False, outliers=(5,))
    recipe = RECIPES["fast"]
    whole = make_plan(layer, Choice(), recipe)
    plan = make_plan(layer, Choice(keeps_outliers=True), recipe)
    assert plan.kept == (5,)
    assert plan.input_scale < 0.05 * whole.input_scale
    assert not round_weight(layer, plan)[5].any()
    assert not exact_weight(layer, plan)[5].any()
    levels = round_weight(layer, plan) * plan.weight_scales
    rounded = round_to_levels(rows, plan.input_scale, plan.input_zero)
    exact = rows.astype(np.float64) @ weight
    beside = rows[:, [5]].astype(np.float64) @ weight[[5]]
    error = rounded @ levels + plan.correction + beside - exact
    np.testing.assert_allclose(LayerRows(layer, rows).output_error(plan), error, atol=2e-4)
    assert LayerRows(layer, rows).mean_square(plan) < 0.01 * LayerRows(layer, rows).mean_square(
        whole
    )


def test_channels_that_are_not_there_are_refused(vit, table):
    with pytest.raises(ArtifactError, match=r"does not fit the graph: block0/fc2 is"):
        write_qdq(vit.model, keep(table, (4096,)))
    with pytest.raises(SpecError, match="kept channels: got -1, expected 0 or more"):
        SiteScales("int8", "", 1.0, (1.0,), 1.0, 1.0, kept_channels=(-1,))
