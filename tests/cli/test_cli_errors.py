"""Bad input: one clear line each, the right exit status, and nothing half done."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys

import pytest
import torch
from graph_files import FP32, INT8_CPU, INT8_ORT_X64
from PIL import Image
from safetensors.torch import load_file, save_file

from edge_vit.bundle import MANIFEST, TABLE, Bundle
from edge_vit.runtime.cpu import has_vnni
from edge_vit.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

TIMM_CUT = ("timm:vit_tiny_patch16_224", "--model-arg", "depth=1")


class Evil:
    """What a pickle with code in it would run."""

    def __reduce__(self):
        return (os.system, ("touch /tmp/edge-vit-was-here",))


@pytest.fixture
def without(monkeypatch):
    """Return a function that takes a package away."""
    load = importlib.import_module

    def take(missing):
        def import_module(name, package=None):
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
            return load(name, package)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return take


# Images


def test_a_missing_image(refused, shared_bundle):
    line = refused("run", shared_bundle.path, "no.png")
    assert line == "image no.png does not exist or is not a file. Check the path"


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\nbroken"], ids=["empty", "text", "broken"]
)
def test_a_corrupt_image(refused, shared_bundle, tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    assert refused("run", shared_bundle.path, path).startswith(f"image {path} ")


def test_a_decompression_bomb(refused, shared_bundle, tmp_path, monkeypatch):
    from edge_vit.data import decoding

    monkeypatch.setattr(decoding, "MAX_PIXELS", 99)
    path = tmp_path / "bomb.png"
    Image.new("L", (10, 10)).save(path)
    assert "was not decoded. Scale it down first" in refused("run", shared_bundle.path, path)


@pytest.mark.parametrize("command", ["run", "eval", "verify", "calibrate"])
def test_an_empty_folder(refused, shared_bundle, tmp_path, command):
    option = {"eval": ["--data"], "verify": ["--data"], "calibrate": ["--calib"]}.get(command, [])
    line = refused(command, shared_bundle.path, *option, tmp_path)
    assert line.startswith(f"image folder {tmp_path} holds no images")


def test_a_corrupt_image_among_those_to_calibrate_on(refused, bundle, calibration, tmp_path):
    folder = tmp_path / "calib"
    shutil.copytree(calibration, folder)
    (folder / "0.png").write_bytes(b"broken")
    before = bundle.manifest
    line = refused("calibrate", bundle.path, "--calib", folder, "--max-bad", "0")
    assert line.startswith(f"image {folder / '0.png'} ")
    assert Bundle.open(bundle.path).manifest == before


# Models and weights


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("timm:vit_smal_patch16_224", "vit_small_patch16_224"),
        ("edgevit:vit_digit", "vit_digits"),
        ("torchvison:vit_b_16", "torchvision:vit_b_16"),
        ("vit_small_patch16_224", "timm:vit_small_patch16_224"),
    ],
    ids=["timm", "edgevit", "scheme", "no scheme"],
)
def test_an_unknown_model_with_near_matches(refused, tmp_path, address, near):
    out = tmp_path / "out.edgevit"
    line = refused("export", address, "--random-weights", "-o", out)
    assert "did you mean" in line.lower()
    assert near in line
    assert not out.exists()


def test_a_checkpoint_of_the_wrong_size(refused, tmp_path):
    import timm

    path, out = tmp_path / "seven.safetensors", tmp_path / "out.edgevit"
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=7)
    save_file(model.state_dict(), path)
    line = refused("export", *TIMM_CUT, "--checkpoint", path, "-o", out)
    assert "head.weight (7, 192) where (1000, 192) was expected" in line
    assert line.endswith("Add --num-classes 7")
    assert not out.exists()


def test_a_pickle_that_wants_to_run_code(refused, tmp_path):
    path, out = tmp_path / "evil.pt", tmp_path / "out.edgevit"
    torch.save({"state_dict": Evil()}, path)
    line = refused("export", *TIMM_CUT, "--checkpoint", path, "-o", out)
    assert line.startswith(f"checkpoint {path} wants to run code (")
    assert not os.path.exists("/tmp/edge-vit-was-here")  # noqa: PTH110


def test_weights_that_are_not_finite(refused, weights, tmp_path):
    good, path = load_checkpoint(weights), tmp_path / "nan.safetensors"
    tensors = dict(good.tensors)
    tensors["head.bias"] = torch.full_like(tensors["head.bias"], torch.nan)
    save_checkpoint(path, Checkpoint(good.config, good.labels, good.preprocess, tensors))
    line = refused("export", f"edgevit:{path}", "-o", tmp_path / "out.edgevit")
    assert "head.bias holds NaN or infinity" in line


def test_a_truncated_checkpoint(refused, weights, tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(weights.read_bytes()[:2000])
    line = refused("export", f"edgevit:{path}", "-o", tmp_path / "out.edgevit")
    assert line.startswith(f"{path} is not a safetensors file, or not all of it")


def test_weights_without_their_facts(refused, weights, tmp_path):
    path = tmp_path / "bare.safetensors"
    save_file(load_file(weights), path)
    line = refused("export", f"edgevit:{path}", "-o", tmp_path / "out.edgevit")
    assert "holds weights only" in line


# Extras


def test_a_missing_extra(refused, without, tmp_path):
    without("timm")
    line = refused("export", *TIMM_CUT, "--random-weights", "-o", tmp_path / "out.edgevit")
    assert line.endswith("needs timm, which is not installed. Run: pip install 'edge-vit[zoo]'")


def test_no_torch_at_all(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\nfrom edge_vit.cli import main\n"
        f"main(['-q', 'export', 'timm:vit', '-o', {str(tmp_path / 'out.edgevit')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: this command needs torch, which is not installed. "
        "Run: pip install 'edge-vit[export]'\n"
    )


# Bundles


def test_no_bundle(refused, tmp_path):
    line = refused("inspect", tmp_path / "no.edgevit")
    assert line == (
        f"bundle {tmp_path / 'no.edgevit'} does not exist. "
        f"Make one with: edgevit export MODEL -o {tmp_path / 'no.edgevit'}"
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (INT8_ORT_X64 if has_vnni() else INT8_CPU, ["bench", "--backend", "ort"]),
        (FP32, ["bench", "--precision", "fp32"]),
        (TABLE, ["quantize"]),
        ("golden/golden.npz", ["inspect", "--check"]),
    ],
    ids=["int8", "fp32", "table", "golden"],
)
@pytest.mark.parametrize("damage", ["truncated", "edited"])
def test_a_damaged_bundle(refused, bundle, name, command, damage):
    path = bundle.path / name
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[-1]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    line = refused(command[0], bundle.path, *command[1:])
    assert str(path) in line
    assert damage in line
    assert "Run: edgevit" in line


def test_a_bundle_that_was_never_finished(refused, bundle):
    (bundle.path / MANIFEST).unlink()
    assert "never finished" in refused("inspect", bundle.path)


@pytest.mark.usefixtures("made")
def test_a_bundle_of_fp32_alone(edgevit, refused, tmp_path):
    out = tmp_path / "fp32.edgevit"
    result = edgevit("export", "edgevit:vit_digits", "-o", out)
    assert f"edgevit calibrate {out} --calib DIR" in result.stderr
    assert refused("quantize", out).endswith(f"Run: edgevit calibrate {out} --calib DIR")
    assert "nothing to verify" in refused("verify", out, "--data", tmp_path)


# Usage


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "m", "-o", "o", "--int8"], "--int8 needs images to calibrate on. Add --calib"),
        (["export", "m", "-o", "o", "--int8", "--fp16"], "--int8 writes FP16 as well"),
        (["export", "m", "-o", "o", "--recipe", "minmax"], "Add --int8"),
        (["export", "m", "-o", "o", "--num-images", "4"], "Add --calib DIR"),
        (["export", "m"], "Missing option '-o'"),
        (["export", "m", "-o", "o", "--mean", "1,2"], "'1,2' is not of the form R,G,B"),
        (["export", "m", "-o", "o", "--image-size", "a"], "'a' is not of the form N or H,W"),
        (["calibrate", "b", "--calib", "d", "--recipe", "finest"], "'finest' is not one of"),
        (["run", "b"], "Missing argument 'IMAGE...'"),
        (["run", "b", "i", "--top", "0"], "0 is not in the range"),
        (["run", "b", "i", "--precision", "int4"], "'int4' is not one of"),
        (["bench", "b", "--backend", "tpu"], "'tpu' is not one of"),
        (["bench", "b", "--threads", "0"], "0 is not in the range"),
        (["verify", "b", "--data", "d", "--max-drop", "-1"], "-1.0 is not in the range"),
        (["finetune", "m", "--data", "d", "-o", "o", "--lr", "0"], "0.0 is not in the range"),
        (["--verbose", "run", "b", "i"], "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(refused, arguments, says):
    assert says in refused(*arguments, status=2)
