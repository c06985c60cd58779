"""Labels and numeric scores, from export to what each command prints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper
from onnx_ends import write_file
from PIL import Image

from edge_vit.measure.results import AccuracyReport
from edge_vit.values import from_json

HALVES = ("--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return a folder of two folders, whose names are no labels: 40 images of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(40):
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        place = folder / ("red", "blue")[index % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


def export(edgevit, folder, op, classes, *more):
    path = write_file(folder / "net.onnx", helper.make_node(op, ["l"], ["y"]), classes=classes)
    out = folder / "net.edgevit"
    result = edgevit("export", f"onnx:{path}", *HALVES, "--fp16", "-o", out, *more)
    assert result.exit_code == 0, result.output
    return out, result


@pytest.mark.uncounted
def test_a_score_is_printed_compared_and_judged(edgevit, photos, tmp_path):
    out, result = export(edgevit, tmp_path, "Identity", 1)
    assert "the model has 1 output, which is taken as a numeric score" in result.stderr
    image = photos / "red" / "0.png"
    shown = edgevit("run", out, image)
    assert "value" in shown.stdout
    assert "%" not in shown.stdout
    (record,) = json.loads(edgevit("run", out, image, "--json").stdout)
    assert list(record) == ["image", "predictions", "scores"]
    result = edgevit("eval", out, "--data", photos, "--precision", "fp16", "--json")
    assert result.exit_code == 0, result.output
    report = from_json(AccuracyReport, json.loads(result.stdout))
    assert (report.task, report.num_labelled, report.kl_mean) == ("regression", 0, None)
    assert 0 < report.scores[0].mean_error < 0.01 * report.scores[0].spread
    assert set(report.measures) == {"agreement", "error"}
    error = report.measures["error"]
    assert error.value == pytest.approx(report.scores[0].mean_error)
    assert error.low < error.value < error.high
    verify = ("verify", out, "--data", photos, "--min-speedup", 0.001, "--iterations", 5)
    passed = edgevit(*verify, "--no-report", "--json")
    gates = {gate["name"]: gate for gate in json.loads(passed.stdout)["verdict"]["gates"]}
    assert gates["max-error"]["outcome"] == "pass", gates
    failed = edgevit(*verify, "--no-report", "--max-error", 0)
    assert failed.exit_code == 3, failed.output
    assert "of the spread of its values on 40 images" in " ".join(failed.stdout.split())


def test_labels_are_printed_as_on_and_off(edgevit, photos, tmp_path):
    names = tmp_path / "labels.txt"
    names.write_text("cat\ndog\nnight\n")
    more = ("--labels", names, "--threshold", 0.25)
    out, result = export(edgevit, tmp_path, "Sigmoid", 3, *more)
    assert "the model ends in Sigmoid: 3 labels, each on or off by itself" in result.stderr
    (record,) = json.loads(edgevit("run", out, photos / "red" / "0.png", "--json").stdout)
    on = [each["label"] for each in record["predictions"] if each["score"] >= 0.25]
    assert [each["label"] for each in record["labels_on"]] == on
    result = edgevit("eval", out, "--data", photos, "--precision", "fp16")
    assert "each label (%)" in result.stdout
    assert "most changed first" in result.stdout
    inspected = " ".join(edgevit("inspect", out).stdout.split())
    assert "activation sigmoid threshold 0.25" in inspected
    assert "At export: the model ends in Sigmoid" in inspected


def test_a_word_that_is_no_task_is_named_with_a_near_one(refused, tmp_path):
    line = refused("export", "onnx:x.onnx", "--task", "multilabel", "-o", tmp_path / "o", status=2)
    assert "multi_label" in line
