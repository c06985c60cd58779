"""Files of past formats are read for ever: one of each lies in ``golden/``, never to be edited.

A change of what is written needs a new format number, a new golden file, and a reader for both.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from golden_reports import REPORT_1, REPORT_2, REPORT_3, REPORT_4, REPORT_5

from edge_vit.bundle import MANIFEST, Artifact, Bundle, Manifest
from edge_vit.bundle.record import ExportRecord, Parity
from edge_vit.errors import ArtifactError
from edge_vit.report.saved import read_json
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.spec.table import CalibrationTable, FallbackPoint, Forecast, Recipe, SiteScales
from edge_vit.values import to_json

GOLDEN = Path(__file__).parent / "golden"

TABLE_1 = CalibrationTable(
    recipe=Recipe("percentile", "percentile", 99.99),
    model_digest="5f" * 32,
    sites={
        "block0/qkv": SiteScales(
            "int8",
            "linear layer of a block",
            0.02740478515625,
            (0.0011, 6.103515625e-05),
            3.48,
            3.4,
            divisors=(1.5, 0.25),
        ),
        "block0/fc2": SiteScales("fp16", "kept by hand", 0.04428, (0.0025,), 5.62, 61.25),
    },
    image_digests=("0a" * 32, "0b" * 32),
)
TABLE_2 = CalibrationTable(
    recipe=Recipe(
        "own", fold_strength=0.5, steps=("shift", "bias"), search_tokens=2048, min_sqnr=25.0
    ),
    model_digest="5f" * 32,
    sites={
        "block0/qkv": SiteScales(
            "int8",
            "linear layer of a block",
            0.02740478515625,
            (0.0011, 6.103515625e-05),
            3.48,
            3.4,
            divisors=(1.5, 0.25),
            offsets=(0.5, -0.125),
            correction=(0.001, 0.0),
            steps=("fold", "shift", "bias"),
            output_error=2.5e-5,
        ),
    },
    image_digests=("0a" * 32, "0b" * 32),
    fallback=(FallbackPoint("block0/qkv", 1.0, 200.0),),
    fp32_nodes={"block0/add": "reaches 70,000"},
)
TABLE_3 = dataclasses.replace(
    TABLE_2,
    recipe=dataclasses.replace(TABLE_2.recipe, fold_strength=0.7, has_zero_points=True),
    sites={"block0/fc2": dataclasses.replace(TABLE_2.sites["block0/qkv"], activation_zero=-120)},
)
TABLE_4 = dataclasses.replace(TABLE_3, image_signatures=("gH" + 381 * "A" + "=",))
TABLE_5 = dataclasses.replace(
    TABLE_4,
    recipe=dataclasses.replace(
        TABLE_4.recipe,
        strengths=(0.0, 0.7),
        is_compensated=True,
        tries_rotation=True,
        scales_hidden=True,
        keeps_single_tokens=True,
    ),
    forecast=Forecast(16, 33.5, 27.25, "all steps", {"largest values": 25.5}),
    nearest=("block0/fc2",),
    weights_digest="7e" * 32,
    rotation=7,
    rotated_fp32_nodes={"head/MatMul": "reaches 70,000, float16 ends at 65,504"},
)
TABLE_6 = dataclasses.replace(
    TABLE_5,
    recipe=dataclasses.replace(TABLE_5.recipe, min_worth=0.2),
    forecast=Forecast(16, 33.5, 27.25, "all steps", {"largest values": 25.5}, 35.0),
)
TABLE_7 = dataclasses.replace(
    TABLE_6,
    recipe=dataclasses.replace(TABLE_6.recipe, kept_channels=64),
    sites={
        "block0/fc2": dataclasses.replace(TABLE_6.sites["block0/fc2"], kept_channels=(1, 17)),
    },
)
TABLE_8 = dataclasses.replace(
    TABLE_7,
    forecast=Forecast(16, 33.5, 27.25, "all steps", {"largest values": 25.5}, 35.0, 31.5, 35.25),
    split_fp32_nodes={"block0/fc2/add_kept": "may reach 9,000, float16 ends at 65,504"},
)
SPEC_1 = ModelSpec(
    name="vit_small_patch16_224",
    source="timm:vit_small_patch16_224",
    task="classification",
    labels=("cat", "chat échaudé"),
    inputs=(image_input((224, 160)),),
    outputs=(task_output("classification", 2),),
    preprocess=PreprocessSpec(
        (224, 160), "bilinear", 0.9, "squash", (0.5, 0.5, 0.5), (0.5, 0.25, 0.5)
    ),
    depth=12,
    num_heads=6,
    embed_dim=384,
    num_tokens=197,
    licence="apache-2.0",
)
MANIFEST_1 = Manifest(
    format=1,
    created="2026-10-01T12:00:00+00:00",
    spec=SPEC_1,
    artifacts={
        "onnx/fp32.onnx": Artifact("1a" * 32, 88_000_000, (), {"torch": "2.14.1"}),
        "calibration.json": Artifact("1b" * 32, 5_000, ("1a" * 32,), {"onnxruntime": "1.31.1"}),
        "onnx/int8.onnx": Artifact("1c" * 32, 31_000_000, ("1a" * 32, "1b" * 32), {}),
    },
)
MANIFEST_2 = dataclasses.replace(
    MANIFEST_1,
    format=2,
    spec=dataclasses.replace(SPEC_1, task="multi_label", activation="sigmoid", threshold=0.25),
)
RECORD_1 = ExportRecord(
    address="timm:vit_small_patch16_224",
    checkpoint="best.safetensors",
    parity=Parity("torch 2.14.1", "5 of the given images", (1, 2, 5), 0.9999999, 3e-7, 0.41),
    notes=("block3: chat échaudé",),
)
RECORD_2 = dataclasses.replace(
    RECORD_1, remarks=("one channel",), weights="weights of state_dict_ema"
)


def read(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def test_table_of_format_1_is_read():
    assert CalibrationTable.from_bytes(read("table.format1.json")) == TABLE_1


def test_manifest_of_format_1_is_read(tmp_path):
    (tmp_path / MANIFEST).write_bytes(read("manifest.format1.json"))
    bundle = Bundle.open(tmp_path)
    assert bundle.manifest == MANIFEST_1
    assert bundle.precisions == ("fp32", "int8")


def test_a_classifier_of_format_1_keeps_its_softmax():
    assert (SPEC_1.activation, SPEC_1.threshold) == ("softmax", 0.0)


def test_manifest_of_format_2_is_read_and_written(tmp_path):
    (tmp_path / MANIFEST).write_bytes(read("manifest.format2.json"))
    assert Bundle.open(tmp_path).manifest == MANIFEST_2
    assert json.loads(MANIFEST_2.to_bytes()) == json.loads(read("manifest.format2.json"))


def test_the_only_class_of_format_1_is_a_score(tmp_path):
    data = json.loads(read("manifest.format1.json"))
    data["spec"] |= {"labels": [], "outputs": [{**data["spec"]["outputs"][0], "shape": ["n", 1]}]}
    (tmp_path / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
    spec = Bundle.open(tmp_path).spec
    assert (spec.task, spec.activation, spec.threshold) == ("regression", "none", 0.0)
    assert spec.outputs[0].name == "logits"  # as the graph has it


def test_export_record_of_format_1_is_read():
    assert ExportRecord.from_bytes(read("export.format1.json")) == RECORD_1


def test_export_record_of_format_2_is_read():
    assert ExportRecord.from_bytes(read("export.format2.json")) == RECORD_2


def test_table_of_format_2_is_read():
    assert CalibrationTable.from_bytes(read("table.format2.json")) == TABLE_2


def test_table_of_format_3_is_read():
    assert CalibrationTable.from_bytes(read("table.format3.json")) == TABLE_3


def test_table_of_format_4_is_read():
    assert CalibrationTable.from_bytes(read("table.format4.json")) == TABLE_4


def test_table_of_format_5_is_read():
    assert CalibrationTable.from_bytes(read("table.format5.json")) == TABLE_5


def test_table_of_format_6_is_read():
    assert CalibrationTable.from_bytes(read("table.format6.json")) == TABLE_6


def test_table_of_format_7_is_read():
    assert CalibrationTable.from_bytes(read("table.format7.json")) == TABLE_7


def test_table_of_format_8_is_read():
    assert CalibrationTable.from_bytes(read("table.format8.json")) == TABLE_8


def test_reports_of_every_format_are_read():
    assert read_json(GOLDEN / "report.format1.json") == REPORT_1
    assert read_json(GOLDEN / "report.format2.json") == REPORT_2
    assert read_json(GOLDEN / "report.format3.json") == REPORT_3
    assert read_json(GOLDEN / "report.format4.json") == REPORT_4
    assert read_json(GOLDEN / "report.format5.json") == REPORT_5


def test_the_newest_report_has_every_field_filled():
    accuracy, latency = REPORT_5.accuracy[0], REPORT_5.latency[0]
    for report in (accuracy, latency, REPORT_5.environment):
        unset = [f.name for f in dataclasses.fields(report) if getattr(report, f.name) == f.default]
        assert not unset


WRITTEN = {
    "table.format8.json": TABLE_8,
    "export.format2.json": RECORD_2,
    "report.format5.json": REPORT_5,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_today_is_of_the_newest_format(name):
    written = WRITTEN[name]
    is_table = isinstance(written, CalibrationTable)
    found = json.loads(written.to_bytes()) if is_table else to_json(written)
    assert found == json.loads(read(name))


def test_record_survives_write_and_read():
    data = RECORD_1.to_bytes()
    assert ExportRecord.from_bytes(data) == RECORD_1
    assert "chat échaudé" in data.decode()
    assert data.endswith(b"}\n")


DAMAGED = {
    "truncated": RECORD_1.to_bytes()[:-9],
    "empty": b"",
    "not text": b"\xff\xfe\x00",
    "a list": b"[]",
    "missing field": b'{"address": "timm:x"}',
    "unknown field": RECORD_1.to_bytes().replace(b'"notes"', b'"words"'),
    "a number as text": RECORD_1.to_bytes().replace(b"0.41", b'"0.41"'),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_refuses_a_damaged_record_in_one_line(data):
    with pytest.raises(ArtifactError, match=r"^export\.json is not an export record: ") as error:
        ExportRecord.from_bytes(data)
    assert "\n" not in str(error.value)
