"""A step of diffusion and a decoder of latents, from export to the verdict."""

import dataclasses
import json
import re

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest
import small_dit
import torch
from PIL import Image
from traced import older_exporter

from edge_vit import api
from edge_vit.bundle import Bundle
from edge_vit.data.images import open_image_source
from edge_vit.data.preprocess import digest
from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest
from edge_vit.graph.exact import runner_of_graph
from edge_vit.graph.sites import find_blocks
from edge_vit.lowering.smoothing import find_smoothing_targets
from edge_vit.spec import TensorSpec
from edge_vit.tasks.generation.loop import noise, sample


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("generation")


@pytest.fixture(scope="module")
def dit(home):
    """Return the bundle of the small DiT, every precision in it."""
    return api.export_bundle(
        SourceRequest("python:small_dit:make_dit", random_weights=True),
        home / "dit.edgevit",
        precision="int8",
        calibration="seeds:0-2",
        threads=1,
    )


@pytest.fixture(scope="module")
def decoder(home):
    """Return the bundle of the small decoder, fp32 and FP16."""
    request = SourceRequest("python:small_dit:make_decoder", random_weights=True)
    return api.export_bundle(request, home / "decoder.edgevit", precision="fp16", threads=1)


def graph_of(bundle):
    model = ir.from_proto(ir.to_proto(ir.load(bundle.path / bundle.graph())))
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return model.graph


def test_blocks_with_adaptive_norms_are_found_and_smoothed(dit):
    blocks = find_blocks(graph_of(dit))
    assert [[site.role for site in block.sites] for block in blocks] == [
        ["qkv", "proj", "fc1", "fc2"]
    ] * 2
    for block in blocks:
        targets = {target.sites[0].role: target for target in find_smoothing_targets(block)}
        assert {"proj", "qkv", "fc1"} <= targets.keys()
        assert targets["qkv"].is_shiftable
    table = dit.read_table()
    assert len(table.sites) == 8
    assert any(site.divisors for name, site in table.sites.items() if "qkv" in name)


def test_the_graph_samples_as_the_module_does(dit):
    module, spec = small_dit.make_dit().eval(), dit.spec

    def run_module(rows):
        given = (torch.from_numpy(rows[name].copy()) for name in ("latents", "timesteps", "labels"))
        with torch.no_grad():
            return {"predicted": module(*given).numpy()}

    row = noise(spec, 7, label=2)
    ours = sample(spec, runner_of_graph(dit.read_graph(), spec), row).latents
    theirs = sample(spec, run_module, row).latents
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_timesteps_become_angles_in_float32(dit):
    half = ir.load(dit.path / dit.graph("fp16")).graph
    sines = [node for node in half if node.op_type in ("Sin", "Cos")]
    assert sines
    assert all(node.inputs[0].dtype == ir.DataType.FLOAT for node in sines)
    assert half.inputs[0].dtype == ir.DataType.FLOAT  # the inputs keep their types
    products = [node for node in half if node.op_type == "MatMul"]
    assert all(node.outputs[0].dtype == ir.DataType.FLOAT16 for node in products)


def test_golden_samples_are_no_seeds_of_calibration(dit):
    golden = dit.read_golden()
    assert golden.images.dtype.names == ("latents", "timesteps", "labels")
    assert len(set(golden.images["timesteps"].tolist())) > 1
    assert not golden.digests & set(dit.read_table().image_digests)


def test_eval_measures_steps_and_samples_on_unseen_seeds(dit, edgevit):
    result = edgevit("eval", dit.path, "--data", "seeds:100-111", "--backend", "ort", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    measures = {name: each["value"] for name, each in report["measures"].items()}
    assert report["num_calibrated_on"] == 0
    assert measures["psnr"] > 20
    assert 0 < measures["sample_error"] < 0.05
    assert measures["worst_step_sqnr"] <= measures["step_sqnr"]
    assert measures["worst_step"] in (1, 2, 3, 4)


def test_eval_knows_seeds_that_calibration_saw(dit, edgevit):
    result = edgevit("eval", dit.path, "--data", "seeds:0-2", "--backend", "ort", "--json")
    assert json.loads(result.stdout)["num_calibrated_on"] == 3


def test_fp32_against_itself_is_exact(dit, edgevit):
    result = edgevit(
        *("eval", dit.path, "--data", "seeds:5-6", "--precision", "fp32"),
        "--backend",
        "ort",
        "--json",
    )
    measures = json.loads(result.stdout)["measures"]
    assert measures["psnr"]["value"] == 100
    assert measures["sample_error"]["value"] == 0


def test_verify_reports_samples_side_by_side(dit, edgevit, tmp_path):
    page = tmp_path / "report.html"
    result = edgevit(
        *("verify", dit.path, "--data", "seeds:200-211", "--iterations", 5, "--backend", "ort"),
        *("--no-report", "--threads", 1, "-o", page),
    )
    assert result.exit_code in (0, 3, 5), result.output
    text = page.read_text()
    assert "Left what fp32 makes of the seed" in text
    assert "prediction" in text and "v_prediction" in text  # the sampling is among the conditions
    assert text.count("data:image/png") >= 12


def test_run_writes_pictures_by_seed(dit, edgevit, tmp_path):
    call = ("run", dit.path, "--precision", "fp32", "--backend", "ort", "--draw", tmp_path)
    result = edgevit(*call, "--seed", 3, "--seed", 4, "--label", 1, "--json")
    assert result.exit_code == 0, result.output
    assert [each["image"] for each in json.loads(result.stdout)] == ["seed 3", "seed 4"]
    with Image.open(tmp_path / "seed-3.png") as picture:
        assert picture.size == (small_dit.SIDE, small_dit.SIDE)
        first = np.asarray(picture)
    edgevit(*call, "--seed", 3, "--label", 1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "seed-3.png")), first)
    edgevit(*call, "--seed", 3, "--label", 0)
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "seed-3.png")), first)


def test_a_file_of_inputs_goes_wherever_seeds_go(dit, edgevit, tmp_path):
    random = np.random.default_rng(1)
    path = tmp_path / "inputs.npz"
    np.savez(
        path,
        latents=random.standard_normal((12, 2, 4, 4)).astype(np.float32),
        timesteps=np.full(12, 250),
        labels=np.arange(12) % 3,
    )
    result = edgevit("eval", dit.path, "--data", path, "--backend", "ort", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["measures"]["worst_step"]["value"] in (1, 2)
    assert edgevit("run", dit.path, path, "--backend", "ort").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "--data", "FOLDER"), "takes latents float32 (batch, 2, 4, 4)"),
        (("eval", "--data", "seeds:9-3"), "expected seeds:FIRST-LAST"),
        (("eval", "--data", "seeds:x"), "expected seeds:FIRST-LAST"),
        (("run", "--seed", "0", "--label", "3"), "label: got 3, expected 0 to 2"),
        (("run", "--seed", "0", "--steps", "0"), "steps of sampling: got 0, expected 1 to 1000"),
        (("run", "FOLDER"), "takes latents float32 (batch, 2, 4, 4)"),
        (("camera", "--source", "test://"), "edgevit camera: make_dit takes latents"),
        (("explain", "FOLDER"), "edgevit explain: make_dit takes latents"),
    ],
)
def test_what_does_not_apply_is_refused_in_one_line(dit, refused, calibration, arguments, message):
    command, *rest = (str(calibration) if each == "FOLDER" else each for each in arguments)
    assert message in refused(command, dit.path, *rest)


def test_arrays_that_do_not_fit_are_refused(dit, refused, tmp_path):
    path, given = tmp_path / "x.npz", {"timesteps": np.zeros(1, int), "labels": np.zeros(1, int)}
    for latents, message in (
        (np.zeros((1, 2, 4, 5), np.float32), "latents is float32 (1, 2, 4, 5), expected"),
        (np.full((1, 2, 4, 4), np.nan, np.float32), "latents holds NaN or infinity"),
        (np.zeros((1, 2, 4, 4), complex), "latents is complex128"),
        (None, "latents is missing"),
    ):
        np.savez(path, **given, **({} if latents is None else {"latents": latents}))
        assert message in refused("eval", dit.path, "--data", path)
    path.write_bytes(b"PK\x03\x04 damaged")
    assert "cannot be read" in refused("eval", dit.path, "--data", path)


def test_image_models_refuse_what_is_about_samples(shared_bundle, refused):
    assert "the model takes images" in refused("eval", shared_bundle.path, "--data", "seeds:0-3")
    refusal = refused("run", shared_bundle.path, "--seed", 1)
    assert refusal.startswith("--seed: ") and "Leave --seed out" in refusal


def test_images_cannot_calibrate_it(refused, calibration, tmp_path):
    line = refused(
        *("export", "python:small_dit:make_dit", "--int8", "--calib", calibration),
        *("-o", tmp_path / "x.edgevit"),
    )
    assert "no images. Calibrate it with --calib seeds:0-31" in line


def test_a_decoder_gives_images(decoder, edgevit, tmp_path):
    assert decoder.spec.outputs[0].shape == ("batch", 3, 8, 8)
    result = edgevit("run", decoder.path, "--seed", 1, "--draw", tmp_path, "--backend", "ort")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "seed-1.png") as picture:
        assert picture.size == (8, 8)
    result = edgevit("eval", decoder.path, "--data", "seeds:0-11", "--backend", "ort", "--json")
    measures = json.loads(result.stdout)["measures"]
    assert measures["psnr"]["value"] > 50
    assert "step_sqnr" not in measures


def test_a_decoder_of_indices_gives_images(edgevit, refused, tmp_path):
    path = tmp_path / "tokens.edgevit"
    request = SourceRequest("python:small_dit:make_token_decoder", random_weights=True)
    with older_exporter():
        spec = api.export_bundle(request, path, precision="fp16", threads=1).spec
    assert (spec.inputs[0].below, spec.outputs[0].shape) == (16, ("batch", 3, 8, 8))
    result = edgevit("run", path, "--seed", 1, "--draw", tmp_path, "--backend", "ort")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "seed-1.png") as picture:
        assert picture.size == (8, 8)
    np.savez(
        tmp_path / "some.npz",
        tokens=np.stack([np.arange(16), np.arange(16)[::-1]]).reshape(2, 4, 4),
    )
    for data in ("seeds:0-11", tmp_path / "some.npz"):
        result = edgevit("eval", path, "--data", data, "--backend", "ort", "--json")
        report = json.loads(result.stdout)
        assert report["measures"]["psnr"]["value"] > 50
        assert not [each for each in report["findings"] if each["name"] == "copies"]
    np.savez(tmp_path / "many.npz", tokens=np.full((1, 4, 4), 16))
    message = "tokens holds 16 to 16, expected indices from 0 to 15"
    assert message in refused("eval", path, "--data", tmp_path / "many.npz")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((TensorSpec("tokens", "int64", ("batch", 4, 4)),), "with the size of the codebook in"),
        ((TensorSpec("ids", "int64", ("batch", 4, 4), below=16),), "expected latents float32"),
        (small_dit.INPUTS[:2], r"TypeError: SmallTokenDecoder\.forward\(\) takes 2 positional"),
        (small_dit.INPUTS * 2, "has 6 inputs, expected latents, timesteps and labels at most"),
    ],
)
def test_other_inputs_are_refused_in_one_line(monkeypatch, refused, tmp_path, inputs, message):
    monkeypatch.setattr(small_dit.SmallTokenDecoder, "inputs", inputs)
    line = refused("export", "python:small_dit:make_token_decoder", "-o", tmp_path / "x.edgevit")
    assert re.search(message, line)


def test_steps_are_no_option_of_a_decoder(decoder, refused):
    assert "has no steps of sampling" in refused("run", decoder.path, "--steps", 3)


def test_seeds_are_the_same_everywhere(dit):
    ours, again = (open_image_source("seeds:4-6", spec=dit.spec) for _ in range(2))
    assert [digest(item.pixels) for item in ours] == [digest(item.pixels) for item in again]
    run = runner_of_graph(dit.read_graph(), dit.spec)
    steps = open_image_source("seeds:4-6", spec=dit.spec, run=run)
    # Each seed's first step is what an evaluation begins with, so that it is known as seen.
    assert digest(steps.item(0).pixels) == digest(next(iter(ours)).pixels)
    assert len(steps) == 3 * 2 * small_dit.SAMPLING.steps


def test_a_manifest_keeps_the_sampling(dit):
    assert Bundle.open(dit.path).spec.sampling == small_dit.SAMPLING


@pytest.mark.parametrize("change", [{"sampling": None}, {"inputs": small_dit.INPUTS[:1]}])
def test_a_denoiser_needs_timesteps_and_sampling(dit, change):
    with pytest.raises(SpecError, match="make_dit"):
        dataclasses.replace(dit.spec, **change)
