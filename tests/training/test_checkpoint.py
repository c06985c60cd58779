"""Checkpoints: all facts come back, and what does not fit is refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.spec import PreprocessSpec
from edge_vit.training.checkpoint import (
    Checkpoint,
    build_model,
    load_checkpoint,
    resize_checkpoint,
    save_checkpoint,
)
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig

CONFIG = VisionTransformerConfig(16, 8, 3, embed_dim=16, depth=1, num_heads=2)
PREPROCESS = PreprocessSpec((16, 16), "bilinear", 0.9, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def make_checkpoint(config=CONFIG):
    torch.manual_seed(0)
    tensors = VisionTransformer(config).state_dict()
    return Checkpoint(config, ("ant", "bee", "ça"), PREPROCESS, tensors, {"accuracy": 0.5})


def with_tensors(checkpoint, **changed):
    """Return `checkpoint` with `changed` tensors; None removes one, `__` stands for a dot."""
    tensors = {**checkpoint.tensors, **{k.replace("__", "."): v for k, v in changed.items()}}
    return replace(checkpoint, tensors={k: v for k, v in tensors.items() if v is not None})


def test_all_facts_come_back(tmp_path):
    checkpoint = make_checkpoint()
    save_checkpoint(tmp_path / "new" / "a.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "new" / "a.safetensors")
    assert replace(loaded, tensors={}) == replace(checkpoint, tensors={})
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(loaded.tensors[k], v) for k, v in checkpoint.tensors.items())


def test_builds_the_same_model_in_eval_mode(tmp_path):
    torch.manual_seed(1)
    config = replace(CONFIG, dropout=0.5)
    model = VisionTransformer(config).eval()
    checkpoint = replace(make_checkpoint(), config=config, tensors=model.state_dict())
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    built = build_model(load_checkpoint(tmp_path / "a.safetensors"))
    images = torch.randn(2, 3, 16, 16)
    assert not built.training
    assert torch.equal(built(images), model(images))


def test_builds_for_another_image_size():
    checkpoint = make_checkpoint()
    model = build_model(checkpoint, image_size=32)
    assert model.config.image_size == 32
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torch.equal(
        model.blocks[0].mlp.fc1.weight, checkpoint.tensors["blocks.0.mlp.fc1.weight"]
    )


def test_resizing_keeps_every_fact_in_step():
    resized = resize_checkpoint(make_checkpoint(), 24)
    assert (resized.config.image_size, resized.preprocess.image_size) == (24, (24, 24))
    assert resized.tensors["position_embedding"].shape == (1, 10, 16)
    with pytest.raises(SpecError, match="image_size: got 20, expected a multiple of patch_size 8"):
        resize_checkpoint(make_checkpoint(), 20)


def test_half_precision_weights_become_float32():
    checkpoint = make_checkpoint()
    halves = replace(checkpoint, tensors={k: v.half() for k, v in checkpoint.tensors.items()})
    assert {p.dtype for p in build_model(halves).parameters()} == {torch.float32}


def test_lists_missing_unexpected_and_misshapen_tensors():
    checkpoint = with_tensors(
        make_checkpoint(), head__bias=None, extra=torch.zeros(1), norm__weight=torch.zeros(5)
    )
    with pytest.raises(ArtifactError) as caught:
        build_model(checkpoint)
    assert str(caught.value) == (
        "the checkpoint does not fit the model: missing: head.bias; unexpected: extra; "
        "misshapen: norm.weight (5,) where (16,) was expected"
    )


def test_refuses_positions_that_fit_no_grid():
    checkpoint = with_tensors(make_checkpoint(), position_embedding=torch.zeros(1, 3, 16))
    with pytest.raises(ArtifactError, match=r"position_embedding \(1, 3, 16\) where \(1, 10, 16\)"):
        build_model(checkpoint, image_size=24)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_refuses_weights_that_are_not_finite_by_name(value):
    checkpoint = make_checkpoint()
    bad = checkpoint.tensors["blocks.0.mlp.fc1.weight"].clone()
    bad[0, 0] = value
    with pytest.raises(ArtifactError, match=r"blocks\.0\.mlp\.fc1\.weight holds NaN or infinity"):
        build_model(with_tensors(checkpoint, blocks__0__mlp__fc1__weight=bad))


def truncated(path: Path):
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(path.read_bytes()[:-100])


def edited(path: Path):
    save_checkpoint(path, make_checkpoint())
    label = rb"\"ant\", "
    path.write_bytes(path.read_bytes().replace(label, b" " * len(label)))


def metadata(**values):
    return lambda path: save_file({"a": torch.zeros(1)}, path, values)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file. Run: edgevit finetune"),
        (lambda path: path.write_bytes(b"no weights"), "is not a safetensors file"),
        (truncated, "is not a safetensors file, or not all of it"),
        (metadata(), "holds weights only, expected a checkpoint of edgevit finetune"),
        (metadata(edge_vit="{}"), "checkpoint format None, this edge-vit reads 1"),
        (metadata(edge_vit="{"), "is not an edge-vit checkpoint"),
        (metadata(edge_vit="[]"), "is not an edge-vit checkpoint"),
        (metadata(edge_vit='{"format": 1}'), "field 'config' is missing"),
        (edited, "labels: got 2, expected 3, one per class"),
    ],
    ids=[
        "missing",
        "text",
        "truncated",
        "weights",
        "format",
        "no-json",
        "list",
        "no-config",
        "edited",
    ],
)
def test_refuses_what_is_no_checkpoint(tmp_path, write, message):
    path = tmp_path / "a.safetensors"
    write(path)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("ant",)}, "labels: got 1, expected 3"),
        ({"preprocess": PreprocessSpec((32, 32))}, r"preprocess.image_size: got \(32, 32\)"),
    ],
    ids=["labels", "image-size"],
)
def test_refuses_facts_that_contradict_each_other(changes, message):
    with pytest.raises(SpecError, match=message):
        replace(make_checkpoint(), **changes)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make_checkpoint())
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ArtifactError, match=r"a\.safetensors: No space left on device"):
        save_checkpoint(path, replace(make_checkpoint(), metrics={}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
