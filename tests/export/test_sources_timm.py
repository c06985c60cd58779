"""``timm:`` models: their own config, checkpoints of other image sizes, and every refusal."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import safetensors.torch
import timm
import torch

from edge_vit.errors import ArtifactError, EdgeVitError, SpecError
from edge_vit.export.sources import SourceRequest, libraries, open_source
from edge_vit.spec import PreprocessSpec

TINY = "timm:vit_tiny_patch16_224"
SMALL = {"depth": 1, "embed_dim": 12, "num_heads": 3}


def open_tiny(address=TINY, **said):
    said = {"model_args": SMALL, **said}
    return open_source(SourceRequest(address, **said))


def save(path, **arguments):
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, **arguments}).eval()
    safetensors.torch.save_model(model, path)
    return path, model


def test_preprocessing_labels_and_task_come_from_timms_config():
    source = open_tiny(random_weights=True)
    assert source.preprocess == PreprocessSpec(
        (224, 224), "bicubic", 0.9, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    )
    assert (source.name, source.task) == ("vit_tiny_patch16_224", "classification")
    assert (len(source.labels), source.labels[0], source.labels[388]) == (
        1000,
        "tench",
        "giant panda",
    )
    assert not source.module.training


def test_random_weights_are_the_same_every_time():
    images = torch.randn(1, 3, 224, 224)
    first, second = (open_tiny(random_weights=True).module(images) for _ in range(2))
    assert torch.equal(first, second)


def test_a_checkpoint_gives_the_numbers_of_the_model_it_came_from(tmp_path):
    path, model = save(tmp_path / "best.safetensors", num_classes=7)
    source = open_tiny(checkpoint=path, num_classes=7, labels=tuple("abcdefg"))
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(source.module(images), model(images))
    assert source.labels == tuple("abcdefg")


def test_labels_make_a_head_of_as_many_classes(tmp_path):
    path, _ = save(tmp_path / "best.safetensors", num_classes=2)
    source = open_tiny(checkpoint=path, labels=("cat", "dog"))
    assert source.labels == ("cat", "dog")
    assert source.module(torch.zeros(1, 3, 224, 224)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_small_patch14_dinov2", {"image_size": (28, 28)}),
        ("vit_small_patch14_reg4_dinov2", {"image_size": (28, 28)}),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_tiny_patch16_224", {"num_classes": 0}),
    ],
)
def test_a_model_without_a_head_gives_features(name, said):
    source = open_tiny(f"timm:{name}", random_weights=True, **said)
    assert (source.task, source.labels) == ("features", ())
    assert source.module(torch.zeros(1, 3, *source.preprocess.image_size)).shape == (1, 12)


def test_a_distilled_model_returns_one_tensor():
    source = open_tiny("timm:deit_tiny_distilled_patch16_224", random_weights=True)
    assert source.module(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


def test_the_head_of_a_checkpoint_is_left_out_where_features_are_wanted(tmp_path):
    path, model = save(tmp_path / "best.safetensors")
    source = open_tiny(checkpoint=path, num_classes=0)
    images = torch.randn(1, 3, 224, 224)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.allclose(source.module(images), expected)


def test_positions_are_interpolated_to_the_image_size_that_is_asked_for(tmp_path):
    path, model = save(tmp_path / "best.safetensors", img_size=64, num_classes=5)
    source = open_tiny(checkpoint=path, image_size=(96, 96), num_classes=5)
    model.set_input_size((96, 96))
    images = torch.randn(1, 3, 96, 96)
    assert torch.allclose(source.module(images), model(images), atol=1e-5)
    assert source.preprocess.image_size == (96, 96)


def test_models_without_positions_take_any_size():
    request = SourceRequest("timm:poolformer_s12", random_weights=True, image_size=(32, 64))
    source = open_source(request)
    assert source.preprocess.image_size == (32, 64)
    assert source.module(torch.zeros(1, 3, 32, 64)).shape == (1, 1000)


def test_refuses_a_checkpoint_of_another_image_size_that_nobody_asked_for(tmp_path):
    path, _ = save(tmp_path / "best.safetensors", img_size=64)
    with pytest.raises(ArtifactError, match=r"1 misshapen: pos_embed .*Add --image-size 64 "):
        open_tiny(checkpoint=path)


def test_refuses_a_checkpoint_of_another_patch_size_even_where_a_size_is_asked_for(tmp_path):
    path, _ = save(tmp_path / "best.safetensors", patch_size=8)
    with pytest.raises(ArtifactError, match=r"patch_embed.proj.weight \(12, 3, 8, 8\) where"):
        open_tiny(checkpoint=path, image_size=(224, 224))


def test_says_the_number_of_classes_of_a_checkpoint(tmp_path):
    path, _ = save(tmp_path / "best.safetensors", num_classes=7)
    with pytest.raises(ArtifactError, match=r"2 misshapen: head.*Add --num-classes 7$"):
        open_tiny(checkpoint=path)


def test_reads_original_deit3_names(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("deit3_small_patch16_224", **SMALL).eval()
    original = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save({"model": original}, tmp_path / "deit3.pth")
    source = open_tiny("timm:deit3_small_patch16_224", checkpoint=tmp_path / "deit3.pth")
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(source.module(images), model(images))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("timm:vit_tinny_patch16_224", "no model 'vit_tinny_patch16_224'. Did you mean vit_tiny_"),
        ("timm:%%%", "see timm.list_models"),
        (f"{TINY}.augreg", "no weights 'augreg' for vit_tiny_patch16_224, known are augreg_in21k,"),
    ],
    ids=["near-name", "no-near-name", "tag"],
)
def test_refuses_an_unknown_name_with_near_ones(address, message):
    with pytest.raises(SpecError, match=message):
        open_tiny(address)


def test_refuses_an_argument_that_the_constructor_does_not_take():
    with pytest.raises(SpecError, match=r"cannot make vit_tiny_patch16_224 with dpth=2: .*'dpth'"):
        open_tiny(random_weights=True, model_args={"dpth": 2})


def test_refuses_weights_that_are_nan(tmp_path):
    path, model = save(tmp_path / "best.safetensors")
    model.norm.weight.data[3] = float("nan")
    safetensors.torch.save_model(model, path)
    with pytest.raises(ArtifactError, match=r"NaN or infinity: 1 of 12 values of norm.weight"):
        open_tiny(checkpoint=path)


def test_pretrained_weights_without_a_network_are_one_quick_line(monkeypatch, capfd):
    def no_network(*_args, **_kwargs):
        raise URLError("no network")

    monkeypatch.setattr(libraries.urllib.request, "urlopen", no_network)
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(EdgeVitError) as error:
        open_tiny()
    assert str(error.value) == (
        "timm:vit_tiny_patch16_224: no pretrained weights (they could not be downloaded). "
        "Add --checkpoint FILE, or --random-weights for shape and speed only"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("address", "said", "message"),
    [
        (TINY, {"num_classes": 10}, "timm's have 1000 classes, 10 were asked for"),
        ("timm:vit_base_patch16_gap_224", {}, "timm has none for this model"),
    ],
    ids=["new-head", "no-weights"],
)
def test_never_takes_random_weights_for_pretrained_ones(address, said, message, monkeypatch):
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(EdgeVitError, match=message):
        open_tiny(address, model_args={}, **said)
