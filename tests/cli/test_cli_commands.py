"""What each command prints and writes when all is well."""

from __future__ import annotations

import dataclasses
import json

import pytest
from graph_files import FP32, INT8, INT8_CPU
from PIL import Image
from traced import older_exporter

from edge_vit.bundle import TABLE, Bundle
from edge_vit.measure.results import AccuracyReport, LatencyReport
from edge_vit.training.checkpoint import load_checkpoint
from edge_vit.values import from_json


def test_export_writes_every_precision_and_says_what_is_next(
    edgevit, weights, calibration, tmp_path
):
    out = tmp_path / "out.edgevit"
    result = edgevit(
        *("export", f"edgevit:{weights}", "--int8", "--calib", calibration, "--num-images", 4),
        *("--recipe", "percentile", "--threads", 1, "-o", out),
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(out)
    bundle.check()
    assert bundle.precisions == ("fp32", "fp16", "int8")
    assert bundle.spec.labels == tuple("0123456789")
    assert bundle.read_table().num_images == 4
    assert bundle.read_table().recipe.name == "percentile"
    assert all(name in result.stdout for name in (FP32, INT8, INT8_CPU, TABLE))
    assert " kB" in result.stdout
    assert f"edgevit verify {out} --data DIR" in result.stderr
    assert "parity" in result.stderr


@pytest.mark.uncounted
def test_of_a_model_that_int8_does_nothing_for_the_advice_is_another(edgevit, tmp_path):
    out = tmp_path / "out.edgevit"
    with older_exporter():
        result = edgevit(
            *("export", "python:small_vits:ConvNet", "--image-size", 16),
            *("--mean", "0,0,0", "--std", "1,1,1"),
            *("-o", out),
        )
    assert result.exit_code == 0, result.output
    assert f"edgevit run {out} IMAGE. INT8 has nothing to quantize" in result.stderr
    assert "edgevit calibrate" not in result.stderr


@pytest.mark.uncounted
def test_export_overrides_reach_the_bundle(edgevit, weights, tmp_path):
    out, labels = tmp_path / "out.edgevit", tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefghij"))
    result = edgevit(
        *("export", "edgevit:vit_digits", "--random-weights", "--model-arg", "depth=1", "--fp16"),
        *("--labels", labels, "--image-size", "16", "--crop-pct", 0.5, "--crop-mode", "squash"),
        *("--interpolation", "bilinear", "--mean", "0.1,0.2,0.3", "--std", "1,1,2"),
        *("--static-batch", 3, "-o", out),
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(out)
    spec = bundle.spec
    assert bundle.precisions == ("fp32", "fp16")
    assert spec.labels == tuple("abcdefghij")
    assert (spec.depth, spec.static_batch) == (1, 3)
    assert dataclasses.astuple(spec.preprocess) == (
        *((16, 16), "bilinear", 0.5, "squash", (0.1, 0.2, 0.3), (1.0, 1.0, 2.0)),
        None,
    )


def test_export_replaces_a_bundle_with_force_only(edgevit, refused, made, bundle):
    before = bundle.manifest
    arguments = ["export", "edgevit:vit_digits", "-o", bundle.path]
    assert refused(*arguments) == f"{bundle.path} exists already. Add --force to replace it"
    assert Bundle.open(bundle.path).manifest == before
    assert made == []
    result = edgevit(*arguments, "--force")
    assert result.exit_code == 0
    assert made == ["edgevit:vit_digits"]
    assert Bundle.open(bundle.path).precisions == ("fp32", "fp16", "int8")
    assert "kept, as the graph is the same: calibration.json, onnx/fp16.onnx" in result.stderr
    assert "forecast" not in result.stdout


def test_export_prints_the_forecast_as_calibrate_does(edgevit, made, bundle, calibration):
    options = "--int8", "--calib", calibration, "--force"
    result = edgevit("export", "edgevit:vit_digits", "-o", bundle.path, *options)
    assert result.exit_code == 0, result.output
    text = Bundle.open(bundle.path).read_table().forecast_text
    assert f"forecast of the SQNR of INT8: {text}\n" in result.stdout


@pytest.mark.parametrize("count", [5, 8])
def test_calibrate_then_quantize(edgevit, bundle, calibration, count):
    result = edgevit("calibrate", bundle.path, "--calib", calibration, "--num-images", count)
    assert result.exit_code == 0, result.output
    table = Bundle.open(bundle.path).read_table()
    assert result.stdout == (
        f"{bundle.path / TABLE}: 8 layers, calibrated on {count} images\n"
        f"forecast of the SQNR of INT8: {table.forecast_text}\n"
    )
    if count < 8:
        assert "undecided" in result.stdout
    else:
        assert f"({table.forecast.low:.1f} to {table.forecast.high:.1f})" in result.stdout
    assert f"edgevit quantize {bundle.path}" in result.stderr
    assert Bundle.open(bundle.path).precisions == ("fp32",)
    result = edgevit("quantize", bundle.path)
    assert result.exit_code == 0, result.output
    assert INT8_CPU in result.stdout
    assert Bundle.open(bundle.path).precisions == ("fp32", "fp16", "int8")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_run_names_the_digit(edgevit, shared_bundle, image, precision):
    result = edgevit("run", shared_bundle.path, image, "--json", "--precision", precision)
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert answer["image"] == str(image)
    assert len(answer["predictions"]) == 5
    assert list(answer["predictions"][0]) == ["index", "label", "score"]
    assert answer["predictions"][0]["label"] == "3"
    assert f"running {precision}" in result.stderr


def test_run_takes_folders_and_prints_a_table(edgevit, shared_bundle, held_out, image):
    result = edgevit("run", shared_bundle.path, held_out / "7", image, "--top", 1)
    assert result.exit_code == 0
    assert result.stdout.count(".png") == len(list((held_out / "7").iterdir())) + 1


@pytest.mark.uncounted
def test_run_gives_features_where_there_is_no_head(edgevit, weights, image, tmp_path):
    out = tmp_path / "features.edgevit"
    assert edgevit("export", f"edgevit:{weights}", "--num-classes", 0, "-o", out).exit_code == 0
    (answer,) = json.loads(edgevit("run", out, image, "--json").stdout)
    assert list(answer) == ["image", "predictions", "features"]
    assert len(answer["features"]) == 32
    assert "32 features" in edgevit("run", out, image).stdout


def test_run_answers_the_good_images_when_one_is_bad(edgevit, shared_bundle, image, tmp_path):
    bad, missing = tmp_path / "bad.png", tmp_path / "missing.png"
    bad.write_bytes(image.read_bytes()[:60])
    result = edgevit("-q", "run", shared_bundle.path, bad, image, missing, "--json")
    assert result.exit_code == 1
    assert [answer["image"] for answer in json.loads(result.stdout)] == [str(image)]
    first, second = result.stderr.splitlines()
    assert first.startswith(f"Error: image {bad} ")
    assert second == f"Error: image {missing} does not exist or is not a file. Check the path"


def test_eval_compares_with_fp32(edgevit, shared_bundle, held_out):
    arguments = ["eval", shared_bundle.path, "--data", held_out, "--backend", "ort", "--json"]
    result = edgevit(*arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["precision"], data["reference"], data["num_images"]) == ("int8", "fp32 ort", 40)
    assert all(0 <= data[rate] <= 1 for rate in ("top1", "reference_top1", "agreement"))
    assert data["agreement"] >= 0.9
    assert 0.99 < data["cosine_mean"] < 1
    assert data["sqnr_db"] > 15
    assert data["worst"]
    assert not any(case["thumbnail_png"] for case in data["worst"])
    assert from_json(AccuracyReport, data).num_images == 40


def test_eval_without_labels_gives_agreement_alone(edgevit, shared_bundle, calibration):
    arguments = ["eval", shared_bundle.path, "--data", calibration, "--num-images", 3]
    data = json.loads(edgevit(*arguments, "--precision", "fp16", "--json").stdout)
    assert (data["precision"], data["top1"], data["num_images"]) == ("fp16", None, 3)
    printed = edgevit(*arguments).stdout
    assert "same answer" in printed
    assert "drop at most, without labels" in printed


def test_eval_of_fp32_is_its_own_reference(edgevit, shared_bundle, held_out):
    arguments = ("eval", shared_bundle.path, "--data", held_out, "--precision", "fp32", "--json")
    data = json.loads(edgevit(*arguments).stdout)
    assert (data["agreement"], data["sqnr_db"]) == (1, None)
    assert data["top1"] == data["reference_top1"]


def test_bench_measures_under_the_conditions_that_it_states(edgevit, shared_bundle):
    result = edgevit(
        *("bench", shared_bundle.path, "--json", "--batch-size", 2, "--iterations", 7),
        *("--warmup", 1, "--threads", 1, "--precision", "fp32", "--backend", "ort"),
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    conditions = ("backend", "precision", "batch_size", "threads", "iterations", "warmup")
    assert [data[name] for name in conditions] == ["ort", "fp32", 2, 1, 7, 1]
    latency = data["latency_ms"]
    assert set(latency) == {"p50", "p90", "p99", "mean", "min", "max"}
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert data["throughput_ips"] == pytest.approx(2000 / latency["mean"])
    assert from_json(LatencyReport, data).iterations == 7


def test_bench_prints_tables(edgevit, shared_bundle, image):
    arguments = ("--iterations", 3, "--threads", 1, "--image", image, "--duration", 0.01)
    result = edgevit("bench", shared_bundle.path, "--backend", "ort", *arguments)
    assert result.exit_code == 0, result.output
    words = ("int8 ort", "p99.9 (ms)", "n/a", "p99 takes 1,000 runs", "preprocess", "end-to-end")
    words += ("variation", "images/s", "· saturated: one run after another")
    assert all(word in result.stdout for word in words)


def test_bench_paces_itself_and_writes_its_report(edgevit, shared_bundle, tmp_path):
    out = tmp_path / "paced.json"
    arguments = ("--scenario", "paced", "--fps", 200, "--iterations", 4)
    result = edgevit("bench", shared_bundle.path, *arguments, "--json", "-o", out)
    assert result.exit_code == 0, result.output
    report = from_json(LatencyReport, json.loads(out.read_bytes()))
    assert report == from_json(LatencyReport, json.loads(result.stdout))
    assert (report.scenario, report.interval_ms) == ("paced", 5)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--fps", "30"], 2, "--fps is of --scenario paced, got saturated"),
        (["--image", "none.png"], 1, "does not exist"),
    ],
    ids=["fps", "image"],
)
def test_bench_refuses_what_does_not_fit(refused, shared_bundle, options, status, message):
    assert message in refused("bench", shared_bundle.path, *options, status=status)


def test_inspect_shows_model_files_and_layers(edgevit, shared_bundle):
    result = edgevit("inspect", shared_bundle.path, "--check")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("Preprocessing", FP32, "block1/fc2", "int8"))
    assert "files are as the manifest says" in result.stderr


def test_inspect_as_json(edgevit, shared_bundle):
    result = edgevit("inspect", shared_bundle.path, "--json")
    data = json.loads(result.stdout)
    assert data["manifest"]["spec"]["depth"] == 2
    assert len(data["calibration"]["sites"]) == 8
    assert data["export"]["parity"]["cosine_min"] > 0.99999
    int8 = {v["target"]: v["file"] for v in data["variants"] if v["precision"] == "int8"}
    assert int8["cpu"] == "onnx/int8.cpu.onnx"
    assert result.stderr == ""


def test_finetune_writes_weights_and_says_what_is_next(edgevit, held_out, tmp_path):
    out = tmp_path / "vit.safetensors"
    arguments = ["finetune", "edgevit:vit_digits", "--data", held_out, "--epochs", 1]
    result = edgevit(*arguments, "--image-size", 16, "--batch-size", 32, "--threads", 1, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: ")
    assert "of 8 held-out images right, epoch 1 of 1" in result.stdout
    assert f"edgevit export edgevit:{out} -o {tmp_path / 'vit.edgevit'}" in result.stderr
    assert "training edgevit:vit_digits" in result.stderr
    assert load_checkpoint(out).labels == tuple("0123456789")


def test_finetune_keeps_what_is_there(refused, weights):
    before = weights.read_bytes()
    line = refused("finetune", "vit_digits", "--data", "digits", "-o", weights)
    assert line == f"{weights} exists already. Add --force to replace it"
    assert weights.read_bytes() == before


@pytest.mark.uncounted
def test_images_that_were_calibrated_on_are_counted(edgevit, bundle, held_out, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for index, path in enumerate(sorted(held_out.glob("*/*.png"))[:4]):
        Image.open(path).save(folder / f"{index}.png")
    assert edgevit("calibrate", bundle.path, "--calib", folder).exit_code == 0
    assert edgevit("quantize", bundle.path).exit_code == 0
    data = json.loads(edgevit("eval", bundle.path, "--data", held_out, "--json").stdout)
    assert data["num_calibrated_on"] == 4
