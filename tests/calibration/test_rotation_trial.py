"""Rotation as one more thing that calibration tries, and a table that says so."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import onnx
import pytest
from seeded import SITES, Remembered, Seeded, random_images, run_onnx, sqnr_db

from edge_vit.calibration import rotation_trial
from edge_vit.calibration.coverage import find_overshoots
from edge_vit.calibration.graph_run import GraphRun
from edge_vit.calibration.rotation_trial import choose_rotation, compare_half
from edge_vit.data.images import ArraySource
from edge_vit.graph.stream import Refusal
from edge_vit.lowering.fp16 import write_half
from edge_vit.lowering.fp16_ranges import observe_amax
from edge_vit.lowering.qdq import write_qdq
from edge_vit.lowering.rotation import rotate
from edge_vit.progress import SILENT
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
    with pytest.MonkeyPatch.context() as patch:  # in a model so small the gain is chance
        patch.setattr(rotation_trial, "_LEAST_GAIN", -math.inf)
        return uneven.calibrate(random_images(20), PLAIN, notes)


def test_a_rotated_stream_with_outliers_leaves_more_and_is_described(rotated_table, notes):
    assert rotated_table.rotation is not None
    as_it_is = rotated_table.forecast.others["not rotated, smoothing alone"]
    assert rotated_table.forecast.measured > as_it_is
    (note,) = (note for note in notes.notes if note.startswith("the residual stream is rotated"))
    assert "On a few images the residual stream reaches" in note


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


@dataclasses.dataclass
class Graph:
    """Stands for a graph: what smoothing alone comes to, and what it is settled at, in dB."""

    vit: Seeded
    table: CalibrationTable
    alone: float
    all_steps: float
    other: Graph | None = None
    threads: int | None = None
    is_settled: bool = False

    def __post_init__(self):
        self.model, self.spec = self.vit.model, self.vit.spec
        self.amax = {}
        self.fp32_nodes = {"node": f"{self.all_steps}"}

    def rotated(self, model, sites):
        assert sites == {f"block{i}/{role}" for i in range(2) for role in ("qkv", "fc1")}
        return self.other

    def activation_error(self, layers):
        assert layers == {f"block{i}/{role}" for i in range(2) for role in ("qkv", "fc1")}
        return self.smoothed()

    def smoothed(self, most=0.0):
        return SimpleNamespace(sqnr=self.alone)

    def settle(self):
        self.is_settled = True
        forecast = Forecast(4, self.all_steps, self.all_steps, "all steps")
        return dataclasses.replace(self.table, forecast=forecast, fp32_nodes=self.fp32_nodes)


@pytest.mark.parametrize(
    ("alone", "all_steps", "is_rotated", "settled"),
    [
        (26.6, 28.0, True, (False, True)),  # in dB, rotated; 26 and 30 as it is
        (26.4, 40.0, False, (True, False)),
        (26.6, 25.0, False, (True, True)),
    ],
)
def test_what_reads_the_stream_decides_which_graph_is_searched(
    vit, table, alone, all_steps, is_rotated, settled
):
    other = Graph(vit, table, alone, all_steps)
    plain = Graph(vit, table, 26.0, 30.0, other)
    found = choose_rotation(plain)
    assert (found.rotation is not None) is is_rotated
    assert (plain.is_settled, other.is_settled) == settled
    assert found.fp32_nodes == plain.fp32_nodes
    assert found.forecast.sqnr == (all_steps if is_rotated else 30.0)
    assert any("rotated" in name for name in found.forecast.others) is (settled != (True, False))
    if is_rotated:
        assert found.int8_fp32_nodes == other.fp32_nodes


def test_a_model_without_one_stream_says_why_it_is_not_rotated(vit, table, monkeypatch):
    notes = Remembered()
    reason = "the model is hierarchical"
    monkeypatch.setattr(rotation_trial, "find_stream", lambda graph: Refusal(reason))
    plain = Graph(vit, table, 26.0, 30.0)
    assert choose_rotation(plain, notes).forecast.sqnr == 30.0
    assert notes.notes == [f"the residual stream is not rotated: {reason}"]


def test_fp16_keeps_fewer_nodes_in_float32_where_outliers_are_spread(vit):
    model = with_outliers(vit.model, 12_000)
    images = list(random_images(2))
    graphs = (model, rotate(model, 0))
    effect = compare_half(*((graph, observe_amax(graph, vit.spec, images)) for graph in graphs))
    assert effect.largest[1] < 0.8 * effect.largest[0]
    assert effect.float32_nodes[0] > effect.float32_nodes[1]
    assert f"where it kept {effect.float32_nodes[0]}" in str(effect)


def test_float16_takes_the_nodes_of_the_rotated_graph(uneven, rotated_table):
    table = dataclasses.replace(rotated_table, rotated_fp32_nodes={"block0/Add": "test"})
    half = write_half(write_qdq(uneven.model, table), table.int8_fp32_nodes)
    assert any(node.name == "block0/Add" for node in half.graph.node)
    assert dataclasses.replace(table, rotation=None).int8_fp32_nodes == table.fp32_nodes


def test_the_error_of_some_layers_inputs_is_theirs_alone(vit):
    """None at all leaves the model as it is; weights stay exact, unlike where all is in INT8."""
    source = ArraySource(random_images(8))
    run = GraphRun.of(vit.model, vit.spec, source, PLAIN, (), "0" * 64, 1, None, SILENT)
    none, one, every = (run.activation_error(SITES[:count]) for count in (0, 1, len(SITES)))
    assert none.sqnr > 90
    assert none.mean < one.mean < every.mean < run.smoothed().mean
