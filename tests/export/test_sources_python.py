"""``python:`` models: the user's own factory."""

from __future__ import annotations

import sys

import pytest
import torch

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.spec import PreprocessSpec

CODE = """
from collections import namedtuple
import torch
from torch import nn
from edge_vit.spec import PreprocessSpec

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, images):
        assert images.shape[-1] == 8, "made for 8 pixels"
        return self.head(images.mean((2, 3)))

def plain(classes=5):
    return Net(classes)

def told(classes=5):
    net = Net(classes)
    net.preprocess = PreprocessSpec((8, 8), mean=(0.1, 0.2, 0.3))
    return net

class Pair(Net):
    def forward(self, images):
        return images[..., :5, :3], images[..., :5, :3]

class Map(Net):
    def forward(self, images):
        return images[..., :5, :3]

class Kinds(Net):
    kind = "logits"
    def forward(self, images):
        logits = super().forward(images)
        one = namedtuple("One", "scores")
        return {
            "logits": {"aux": logits * 2, "logits": logits},
            "nested": {"hidden": logits * 2, "result": (one(logits), {"logits": logits})},
            "alone": {"pred": logits, "name": "net"},
            "list": [logits],
            "named": one(logits),
            "spread": logits[:, :, None, None],
            "score": logits[:, 0],
            "classes": logits.argmax(-1),
            "two": {"a": logits, "b": logits},
            "best": logits.topk(2),
            "squeezed": logits[:, 0].squeeze(),
        }[self.kind]

def returns(kind):
    net = Kinds(3)
    net.kind = kind
    return net

ready = Net(6)
def wide():
    torch.set_default_dtype(torch.float64)
    return Net(4)
class Leaves(Net):
    def forward(self, images):
        raise SystemExit(0)
def leaves(): return Leaves(2)
def fails(): raise RuntimeError("no such weights\\nsecond line")
def text(): return "net"
def pair(): return Pair(2)
def map_(): return Map(2)
"""
EXITS = {
    "user_exit.py": "import sys\nsys.exit()",
    "user_quits.py": "quit(3)",
    "user_argparse.py": """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
args = parser.parse_args()
""",
    "user_options.py": """
import argparse, torch
parser = argparse.ArgumentParser()
parser.add_argument("--classes", type=int, default=4)
args = parser.parse_args()
print("made with", args.classes)

def make():
    print("making")
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                               torch.nn.Linear(3, args.classes))

def leaves():
    raise SystemExit("no data")
""",
}
SAID = {"image_size": (8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture(autouse=True)
def user_code(tmp_path, monkeypatch):
    (tmp_path / "user_models.py").write_text(CODE)
    (tmp_path / "user_broken.py").write_text("import package_that_is_not_there")
    (tmp_path / "user_raises.py").write_text("1 / 0")
    for name, code in EXITS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("user_models", "user_broken", "user_raises", *(n[:-3] for n in EXITS)):
        sys.modules.pop(name, None)


def test_calls_the_factory_of_the_current_folder_with_the_model_arguments():
    path_before = list(sys.path)
    request = SourceRequest("python:user_models:plain", model_args={"classes": 3}, **SAID)
    source = open_source(request)
    assert source.module(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    assert source.preprocess == PreprocessSpec((8, 8), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert (source.name, source.task, source.module.training) == ("plain", "classification", False)
    assert sys.path == path_before


def test_a_module_may_tell_its_own_preprocessing():
    source = open_source(SourceRequest("python:user_models:told", crop_pct=1.0))
    assert source.preprocess == PreprocessSpec((8, 8), crop_pct=1.0, mean=(0.1, 0.2, 0.3))


def test_no_classes_say_features():
    request = SourceRequest("python:user_models:told", num_classes=0)
    assert open_source(request).task == "features"


def test_loads_a_checkpoint(tmp_path):
    weights = {"head.weight": torch.ones(5, 3), "head.bias": torch.zeros(5)}
    torch.save(weights, tmp_path / "best.pth")
    request = SourceRequest("python:user_models:told", checkpoint=tmp_path / "best.pth")
    assert torch.equal(open_source(request).module.head.weight, torch.ones(5, 3))
    torch.save({"other": torch.ones(1)}, tmp_path / "best.pth")
    with pytest.raises(
        ArtifactError, match=r"2 missing: head\.weight, head\.bias; 1 unexpected: other"
    ):
        open_source(request)


@pytest.mark.parametrize(
    ("target", "said", "message"),
    [
        ("user_models", {}, "expected python:package.module:factory"),
        ("user_model:plain", {}, "no module 'user_model', neither installed nor in"),
        ("user_broken:plain", {}, "importing it failed: No module named 'package_that_is_not_th"),
        ("user_raises:plain", {}, "importing it failed: ZeroDivisionError: division by zero"),
        ("user_models:plane", {}, r"user_models has no function 'plane'\. Did you mean plain\?"),
        ("user_exit:make", {}, r"importing it failed: user_exit\.py, line 2, ends the program\. L"),
        ("user_quits:make", {}, r"failed: user_quits\.py, line 1, ends the program with 3\. Leave"),
        ("user_argparse:make", {}, r"user_argparse\.py, line 5, ends the program with 2\. Leave"),
        ("user_options:leaves", {}, r"leaves failed: user_options\.py, line 14, ends .*h no data"),
        ("user_models:plain", {"model_args": {"depth": 2}}, "failed: TypeError: .*'depth'"),
        ("user_models:fails", {}, "user_models:fails failed: RuntimeError: no such weights$"),
        ("user_models:text", {}, "returned a str, expected a torch.nn.Module"),
        ("user_models:plain", {}, "Add --image-size 224 --mean 0.485,0.456,0.406 --std"),
        ("user_models:plain", {**SAID, "image_size": (9, 9)}, "made for 8 pixels. Add --image"),
        ("user_models:leaves", SAID, r"does not take float32 images .*: SystemExit: 0"),
        ("user_models:pair", SAID, r"returns a tuple of 0 \(1, .*, expected one tensor\. Wrap it"),
        ("user_models:map_", SAID, r"returns \(1, 3, 5, 3\), expected \(batch, classes\)"),
        *(
            ("user_models:returns", {**SAID, "model_args": {"kind": kind}}, message)
            for kind, message in {
                "classes": r"returns int64, expected logits .*Leave out .* argmax",
                "two": r"returns a dict of \w+ \(1, .*, expected one tensor\. Wrap it",
                "best": r"returns a topk of 0 \(1, .*, expected one tensor\. Wrap it",
                "squeezed": r"returns \(\), expected \(batch, classes\)",
            }.items()
        ),
        ("user_models:told", {"num_classes": 4}, "has 5 classes, but 4 classes were given"),
        ("user_models:told", {"labels": ("a", "b")}, "has 5 classes, but 2 labels were given"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_model(target, said, message):
    with pytest.raises(SpecError, match=message) as error:
        open_source(SourceRequest(f"python:{target}", **said))
    assert "\n" not in str(error.value)


def test_what_the_users_code_prints_goes_to_stderr_and_our_arguments_are_not_its_own(
    monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["edgevit", "export", "python:user_options:make"])
    source = open_source(SourceRequest("python:user_options:make", **SAID))
    assert source.module(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
    assert sys.argv[1:] == ["export", "python:user_options:make"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "made with 4\nmaking\n"


@pytest.mark.parametrize("kind", ["logits", "nested", "alone", "list", "named", "spread", "score"])
def test_the_one_tensor_that_is_meant_is_taken(kind):
    request = SourceRequest("python:user_models:returns", model_args={"kind": kind}, **SAID)
    source = open_source(request)
    images = torch.rand(2, 3, 8, 8)
    expected = source.module.model.head(images.mean((2, 3)))
    expected = expected[:, :1] if kind == "score" else expected
    torch.testing.assert_close(source.module(images), expected, rtol=0, atol=0)
    assert bool(source.remarks) == (kind not in ("spread", "score"))


def test_only_errors_about_sizes_propose_a_size():
    request = SourceRequest("python:user_models:leaves", **SAID)
    with pytest.raises(SpecError) as error:
        open_source(request)
    assert "--image-size" not in str(error.value)


def test_a_model_that_is_there_already_is_taken():
    assert (
        open_source(SourceRequest("python:user_models:ready", **SAID)).module.head.out_features == 6
    )


def test_another_default_type_of_the_users_code_changes_nothing():
    before = torch.get_default_dtype()
    try:
        source = open_source(SourceRequest("python:user_models:wide", **SAID))
        assert source.module.head.weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
