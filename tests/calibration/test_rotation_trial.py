"""Rotation as one more thing that calibration tries, and a table that says so."""

from __future__ import annotations

import dataclasses

import onnx
import pytest
from seeded import Remembered, Seeded, random_images, run_onnx, sqnr_db

from edge_vit.calibration import rotation_trial
from edge_vit.calibration.coverage import find_overshoots
from edge_vit.calibration.rotation_trial import measure_half, try_rotation
from edge_vit.data.images import ArraySource
from edge_vit.graph.stream import Refusal
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.qdq import write_qdq
from edge_vit.lowering.rotation import rotate
from edge_vit.spec.table import CalibrationTable, Forecast, Recipe

PLAIN = Recipe("plain", search_tokens=64, tries_rotation=True)


def with_outliers(model: onnx.ModelProto, amount: float) -> onnx.ModelProto:
    """Return `model` with two channels of its residual stream far from zero for every token."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    constants = {c.name: c for c in changed.graph.initializer}
    (positions,) = (node.input[1] for node in changed.graph.node if node.name == "embed/Add")
    array = onnx.numpy_helper.to_array(constants[positions]).copy()
    array[..., 3] += amount
    array[..., 17] -= amount
    constants[positions].CopyFrom(onnx.numpy_helper.from_array(array, positions))
    return changed


@pytest.fixture(scope="module")
def uneven(vit) -> Seeded:
    return dataclasses.replace(vit, model=with_outliers(vit.model, 3))


@pytest.fixture(scope="module")
def notes() -> Remembered:
    return Remembered()


@pytest.fixture(scope="module")
def rotated_table(uneven, notes) -> CalibrationTable:
    return uneven.calibrate(random_images(20), PLAIN, notes)


def test_a_stream_with_outliers_is_rotated_where_that_is_better(rotated_table, notes):
    assert rotated_table.rotation is not None
    assert rotated_table.forecast.sqnr > rotated_table.forecast.others["not rotated"]
    assert "it is rotated. On 4 images the residual stream reaches" in notes.notes[-1]


def test_the_table_alone_says_how_to_write_the_graph(uneven, rotated_table):
    read = CalibrationTable.from_bytes(rotated_table.to_bytes())
    assert read == rotated_table
    images = random_images(12, seed=9)
    exact = run_onnx(uneven.model, images)
    written = run_onnx(write_qdq(uneven.model, read), images)
    as_it_is = uneven.calibrate(random_images(20), dataclasses.replace(PLAIN, tries_rotation=False))
    plain = run_onnx(write_qdq(uneven.model, as_it_is), images)
    assert sqnr_db(exact, written) > sqnr_db(exact, plain) + 0.5


def test_ranges_are_checked_in_the_rotated_graph(uneven, rotated_table):
    seen = find_overshoots(uneven.model, uneven.spec, rotated_table, random_images(20))
    assert seen == ()


def test_a_rotation_that_gains_nothing_is_left_out(vit):
    notes = Remembered()
    table = vit.calibrate(random_images(20), PLAIN, notes)
    assert table.rotation is None
    assert table.forecast.others["rotated"] < table.forecast.sqnr + 0.1
    assert notes.notes[-1].endswith("without: it is not rotated")


def test_a_model_without_one_stream_says_why_it_is_not_rotated(vit, table, monkeypatch):
    notes = Remembered()
    reason = "the model is hierarchical"
    monkeypatch.setattr(rotation_trial, "find_stream", lambda graph: Refusal(reason))
    source = ArraySource(random_images(1))
    found = try_rotation(vit.model, vit.spec, source, table, pytest.fail, progress=notes)
    assert found is table
    assert notes.notes == [f"the residual stream is not rotated: {reason}"]


@pytest.mark.parametrize(
    ("sqnr", "in_half", "is_rotated"),
    [
        (30.0, (1, 0), True),
        (25.0, (1, 0), True),
        (24.0, (1, 0), False),
        (40.0, (0, 1), False),
        (26.05, (1, 1), False),
        (26.2, (1, 1), True),
    ],
)
def test_layers_in_int8_count_before_decibels_above_those_wanted(
    vit, table, sqnr, in_half, is_rotated
):
    """25 dB are wanted, 26 come out as it is; `in_half` layers are FP16 there and rotated."""

    def with_forecast(table, sqnr, half):
        names = list(table.sites)[:half]
        sites = {n: dataclasses.replace(table.sites[n], precision="fp16") for n in names}
        recipe = dataclasses.replace(PLAIN, min_sqnr=25.0)
        forecast = Forecast(4, sqnr, sqnr, "all steps")
        return dataclasses.replace(
            table, recipe=recipe, sites={**table.sites, **sites}, forecast=forecast
        )

    plain = with_forecast(table, 26.0, in_half[0])
    other = with_forecast(table, sqnr, in_half[1])
    source = ArraySource(random_images(1))
    found = try_rotation(vit.model, vit.spec, source, plain, lambda graph, progress: other)
    assert (found.rotation is not None) is is_rotated


def test_fp16_keeps_fewer_nodes_in_float32_where_outliers_are_spread(vit):
    model = with_outliers(vit.model, 12_000)
    effect = measure_half(model, rotate(model, 0), vit.spec, list(random_images(2)))
    assert effect.largest[1] < 0.8 * effect.largest[0]
    assert effect.float32_nodes[0] > effect.float32_nodes[1]
    assert f"where it kept {effect.float32_nodes[0]}" in str(effect)


def test_float16_takes_the_nodes_of_the_rotated_graph(uneven, rotated_table):
    table = dataclasses.replace(rotated_table, rotated_fp32_nodes={"block0/Add": "test"})
    half = write_half(write_qdq(uneven.model, table), table.int8_fp32_nodes)
    assert any(node.name == "block0/Add" for node in half.graph.node)
    assert dataclasses.replace(table, rotation=None).int8_fp32_nodes == table.fp32_nodes
