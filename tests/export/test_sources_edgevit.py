"""``edgevit:`` models: everything comes from the checkpoint."""

from __future__ import annotations

import pytest
import torch

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.spec import PreprocessSpec
from edge_vit.training.checkpoint import Checkpoint, save_checkpoint
from edge_vit.training.vit import VisionTransformer, find_config

OWN = PreprocessSpec((32, 32), "bilinear", 1.0, mean=(0.1, 0.2, 0.3))
NAMES = ("zero", "one", "two")


def save(path, labels=NAMES, **config):
    torch.manual_seed(1)
    model = VisionTransformer(find_config("vit_digits", num_classes=len(labels), **config)).eval()
    save_checkpoint(path, Checkpoint(model.config, labels, OWN, model.state_dict()))
    return model


def test_a_file_tells_everything(tmp_path):
    model = save(tmp_path / "digits.safetensors")
    source = open_source(SourceRequest(f"edgevit:{tmp_path}/digits.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(source.module(images), model(images))
    assert (source.name, source.task, source.labels) == ("digits", "classification", NAMES)
    assert source.preprocess == OWN


def test_a_name_with_a_checkpoint_is_the_same_model(tmp_path):
    model = save(tmp_path / "best.safetensors")
    request = SourceRequest("edgevit:vit_digits", checkpoint=tmp_path / "best.safetensors")
    source = open_source(request)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(source.module(images), model(images))
    assert source.name == "vit_digits"


def test_what_the_user_says_goes_on_top(tmp_path):
    save(tmp_path / "best.safetensors")
    source = open_source(
        SourceRequest(
            f"edgevit:{tmp_path}/best.safetensors",
            image_size=(48, 48),
            std=(0.5, 0.5, 0.5),
            labels=("a", "b", "c"),
        )
    )
    assert source.preprocess == PreprocessSpec(
        (48, 48), "bilinear", 1.0, mean=OWN.mean, std=(0.5, 0.5, 0.5)
    )
    assert source.module(torch.zeros(1, 3, 48, 48)).shape == (1, 3)
    assert source.labels == ("a", "b", "c")


def test_no_classes_take_the_head_off(tmp_path):
    model = save(tmp_path / "best.safetensors")
    request = SourceRequest(f"edgevit:{tmp_path}/best.safetensors", num_classes=0)
    source = open_source(request)
    model.head = torch.nn.Identity()
    images = torch.randn(1, 3, 32, 32)
    assert (source.task, source.labels) == ("features", ())
    assert torch.equal(source.module(images), model(images))


def test_random_weights_are_seeded_and_take_model_arguments():
    request = SourceRequest(
        "edgevit:vit_digits", random_weights=True, num_classes=4, model_args={"depth": 1}
    )
    images = torch.randn(1, 3, 32, 32)
    one, two = open_source(request), open_source(request)
    assert torch.equal(one.module(images), two.module(images))
    assert (one.module(images).shape, len(one.module.blocks)) == ((1, 4), 1)


@pytest.mark.parametrize(
    ("target", "said", "message"),
    [
        ("vit_digits", {}, "needs weights. Run: edgevit finetune vit_digits"),
        ("vit_digit", {}, "did you mean vit_digits"),
        ("vit_digits", {"checkpoint": True, "model_args": {"depth": 2}}, "^--model-arg: "),
        ("vit_cifar", {"checkpoint": True}, r"has \w+ \d+, vit_cifar has \d+. Export it as edgev"),
        ("vit_digits", {"checkpoint": True, "image_size": (32, 48)}, "square images only"),
        ("vit_digits", {"checkpoint": True, "image_size": (33, 33)}, "multiple of patch_size"),
        ("vit_digits", {"checkpoint": True, "num_classes": 7}, "has 3 classes, but 7 classes"),
        ("FILE", {"checkpoint": True}, "^--checkpoint: .* is a checkpoint itself, leave it out"),
        ("FILE", {"random_weights": True}, "^--random-weights: .* is a checkpoint itself"),
    ],
)  # fmt: skip
def test_refuses_what_the_checkpoint_does_not_say(tmp_path, target, said, message):
    path = tmp_path / "best.safetensors"
    save(path)
    said = {**said, "checkpoint": path} if "checkpoint" in said else said
    with pytest.raises(SpecError, match=message):
        open_source(SourceRequest(f"edgevit:{path if target == 'FILE' else target}", **said))


def test_refuses_labels_for_a_model_without_a_head(tmp_path):
    save(tmp_path / "best.safetensors", labels=())
    with pytest.raises(SpecError, match="gives features, not classes, but --labels names 1"):
        open_source(SourceRequest(f"edgevit:{tmp_path}/best.safetensors", labels=("a",)))


def test_refuses_a_missing_or_truncated_file(tmp_path):
    path = tmp_path / "best.safetensors"
    with pytest.raises(ArtifactError, match=r"best\.safetensors"):
        open_source(SourceRequest(f"edgevit:{path}"))
    save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"best\.safetensors"):
        open_source(SourceRequest(f"edgevit:{path}"))
