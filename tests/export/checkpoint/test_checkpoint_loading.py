"""Weights from files: what is read, what is refused, and in which words."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from edge_vit.errors import ArtifactError
from edge_vit.export.checkpoint import drop_weights, fill, load_weights

WEIGHTS = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


class Net(nn.Module):
    """The model that `WEIGHTS` belong to."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)


def read_weights(path, key=None):
    """Return what a `Net` holds after the checkpoint at `path` was loaded into it."""
    net = Net()
    fill(net, path, key)
    return net.state_dict()


class Code:
    """A pickle that creates a file when it is loaded the usual way."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(WEIGHTS, id="plain"),
        pytest.param({"state_dict": WEIGHTS, "epoch": 3}, id="state_dict"),
        pytest.param({"model": WEIGHTS, "optimizer": {}}, id="model"),
        pytest.param({"model_ema": {**prefixed("module."), "n_averaged": torch.ones(1)}}, id="ema"),
        pytest.param({"model": {"state_dict": WEIGHTS}}, id="nested"),
        pytest.param(prefixed("module."), id="distributed"),
        pytest.param(prefixed("_orig_mod."), id="compiled"),
        pytest.param(prefixed("module._orig_mod."), id="compiled-then-distributed"),
        pytest.param(prefixed("_orig_mod.module."), id="distributed-then-compiled"),
        pytest.param({"state_dict": prefixed("model.")}, id="lightning"),
        pytest.param(
            {"model": WEIGHTS, "args": argparse.Namespace(lr=1e-3)}, id="options-beside-weights"
        ),
    ],
)
def test_finds_the_weights_however_they_are_wrapped(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    found = read_weights(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_tells_safetensors_by_content_not_by_name(tmp_path):
    path = tmp_path / "weights.bin"
    safetensors.torch.save_file(WEIGHTS, path)
    assert torch.equal(read_weights(path)["fc.weight"], WEIGHTS["fc.weight"])


def test_refuses_a_pickle_that_wants_to_run_code_and_does_not_run_it(tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "was-run"
    torch.save({"state_dict": WEIGHTS, "extra": Code(trace)}, path)
    with pytest.raises(ArtifactError, match=r"evil.pth wants to run code \(\w+.system\)") as error:
        read_weights(path)
    assert not trace.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01, 0], ids=lambda share: f"{share:.0%}")
def test_refuses_a_truncated_file(tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(WEIGHTS, path)
    else:
        safetensors.torch.save_file(WEIGHTS, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ArtifactError, match=r"cut\S+ is corrupt or truncated") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data", [b"not weights at all", b"\x80\x04K\x01.", b"PK\x03\x04rubbish"], ids=repr
)
def test_refuses_what_is_no_weight_file(tmp_path, data):
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with pytest.raises(
        ArtifactError, match=r"is corrupt or truncated|holds no tensors by name, found int"
    ):
        read_weights(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"absent.pth: no such file"):
        read_weights(tmp_path / "absent.pth")


def test_refuses_a_file_without_tensors(tmp_path):
    path = tmp_path / "log.pth"
    torch.save({"epoch": 3, "best": 0.5}, path)
    with pytest.raises(ArtifactError, match=r"holds no weights, found epoch, best"):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_refuses_weights_that_are_not_finite(tmp_path, value):
    path = tmp_path / "nan.safetensors"
    weight = WEIGHTS["fc.weight"].clone()
    weight[0, :2] = value
    safetensors.torch.save_file({**WEIGHTS, "fc.weight": weight}, path)
    with pytest.raises(ArtifactError, match=r"NaN or infinity: 2 of 6 values of fc.weight"):
        read_weights(path)


def test_loads_half_precision_weights_as_float32():
    module = nn.Linear(3, 2)
    weights = {"weight": WEIGHTS["fc.weight"].half(), "bias": WEIGHTS["fc.bias"].bfloat16()}
    load_weights(module, weights, "checkpoint")
    assert module.weight.dtype == torch.float32
    assert torch.equal(module.weight, WEIGHTS["fc.weight"])


class Vit(nn.Module):
    """The outline of one: 4 x 4 patches of 8 pixels, 5 classes."""

    def __init__(self, classes=5, patches=16):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 4, 8, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, 4))
        self.mlp = nn.Linear(4, 8)
        self.head = nn.Linear(4, classes) if classes else nn.Identity()


@pytest.mark.parametrize(
    ("model", "checkpoint", "message"),
    [
        pytest.param(
            Vit(), Vit(classes=7), r"2 misshapen: .*\. Add --num-classes 7$", id="other-classes"
        ),
        pytest.param(
            Vit(classes=0), Vit(), r"2 unexpected: head.weight, head.bias. Add --num-classes 5$"
        , id="no-head-in-model"),
        pytest.param(
            Vit(), Vit(classes=0), r"2 missing: head.*Add --num-classes 0 ", id="no-head-in-file"
        ),
        pytest.param(
            Vit(),
            Vit(patches=64),
            r"pos_embed \(1, 65, 4\) where \(1, 17, 4\) was expected. Add --image-size 64 ",
            id="other-image-size",
        ),
        pytest.param(
            Vit(),
            Vit(classes=7, patches=64),
            r"3 misshapen: .*Add --num-classes 7 --image-size 64 ",
            id="other-classes-and-image-size",
        ),
    ],
)  # fmt: skip
def test_says_which_option_makes_a_checkpoint_fit(model, checkpoint, message):
    with pytest.raises(ArtifactError, match=message):
        load_weights(model, checkpoint.state_dict(), "checkpoint best.pth")


def test_lists_what_is_missing_unexpected_and_misshapen_and_gives_no_useless_hint():
    weights = {f"layer{i}.weight": torch.zeros(1) for i in range(12)}
    weights["mlp.weight"] = torch.zeros(9, 9)
    with pytest.raises(ArtifactError) as error:
        load_weights(Vit(), weights, "checkpoint best.pth")
    assert re.fullmatch(
        r"checkpoint best.pth does not fit the model: 6 missing: pos_embed, .*; "
        r"12 unexpected: layer0.weight, .*layer7.weight, … \(4 more\); "
        r"1 misshapen: mlp.weight \(9, 9\) where \(8, 4\) was expected",
        str(error.value),
    )


def test_gives_no_hint_for_a_wider_model():
    wider = dict(Vit().state_dict())
    wider["mlp.weight"] = torch.zeros(8, 6)
    with pytest.raises(ArtifactError, match=r"was expected$"):
        load_weights(Vit(), wider, "checkpoint")


def test_a_refused_checkpoint_leaves_the_model_as_it_was():
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(ArtifactError):
        load_weights(module, {"weight": torch.zeros(2, 3)}, "checkpoint")
    assert torch.equal(module.weight, before)


def test_drops_weights_by_prefix():
    assert list(drop_weights({"head.w": 1, "heads": 2, "x.head.w": 3}, ["head."])) == [
        "heads",
        "x.head.w",
    ]
