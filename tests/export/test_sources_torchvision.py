"""``torchvision:`` models: transforms and labels of their weights, checkpoints, refusals."""

from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision import models
from torchvision.models._api import register_model
from torchvision.models.vision_transformer import VisionTransformer

from edge_vit.errors import ArtifactError, EdgeVitError, SpecError
from edge_vit.export.sources import SourceRequest, libraries, open_source
from edge_vit.spec import PreprocessSpec


@register_model(name="vit_tests_16")
def build_tiny(
    *, weights: models.ViT_B_16_Weights | None = None, **kwargs: Any
) -> VisionTransformer:
    """Stand in for vit_b_16, which takes seconds and hundreds of megabytes to build."""
    image_size = kwargs.pop("image_size", 224)
    return VisionTransformer(image_size, 16, 1, 3, 12, 24, **kwargs)


def open_tiny(**said):
    return open_source(SourceRequest("torchvision:vit_tests_16", **said))


def save(path, **arguments):
    torch.manual_seed(1)
    model = build_tiny(**arguments).eval()
    with torch.no_grad():  # torchvision starts the head at zero: every output would be equal
        for parameter in model.heads.parameters():
            parameter.normal_()
    torch.save(model.state_dict(), path)
    return path, model


def test_preprocessing_and_labels_come_from_the_weights():
    source = open_tiny(random_weights=True)
    assert source.preprocess == PreprocessSpec((224, 224), "bilinear", 224 / 256)
    assert source.preprocess.resize_size == (256, 256)
    assert (source.task, len(source.labels), source.labels[0]) == ("classification", 1000, "tench")


def test_random_weights_tell_images_apart():
    module = open_tiny(random_weights=True).module
    first, second = module(torch.randn(2, 3, 224, 224))
    assert (first - second).abs().max() > 1e-3


def test_a_tag_chooses_the_weights_and_their_image_size():
    request = SourceRequest("torchvision:vit_tests_16.IMAGENET1K_SWAG_E2E_V1", random_weights=True)
    source = open_source(request)
    assert source.preprocess == PreprocessSpec((384, 384), "bicubic", 1.0)
    assert source.module.image_size == 384


def test_a_checkpoint_gives_the_numbers_of_the_model_it_came_from(tmp_path):
    path, model = save(tmp_path / "best.pth", num_classes=7)
    source = open_tiny(checkpoint=path, num_classes=7)
    images = torch.randn(2, 3, 224, 224)
    assert torch.allclose(source.module(images), model(images), atol=1e-5)
    assert source.labels == ()


def test_positions_are_interpolated_to_the_image_size_that_is_asked_for(tmp_path):
    path, model = save(tmp_path / "best.pth", image_size=64)
    source = open_tiny(checkpoint=path, image_size=(96, 96))
    resized = models.vision_transformer.interpolate_embeddings(96, 16, model.state_dict())
    assert torch.equal(source.module.encoder.pos_embedding, resized["encoder.pos_embedding"])
    assert source.preprocess.image_size == (96, 96)


def test_no_classes_take_the_head_off(tmp_path):
    path, model = save(tmp_path / "best.pth")
    source = open_tiny(checkpoint=path, num_classes=0)
    model.heads = torch.nn.Identity()
    images = torch.randn(1, 3, 224, 224)
    assert (source.task, source.labels) == ("features", ())
    assert torch.allclose(source.module(images), model(images), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 64}, r"1 misshapen: encoder.pos_embedding .*Add --image-size 64 "),
        ({"num_classes": 7}, r"2 misshapen: heads.head.*Add --num-classes 7$"),
    ],
    ids=["image-size", "classes"],
)
def test_refuses_a_checkpoint_that_does_not_fit(tmp_path, arguments, message):
    path, _ = save(tmp_path / "best.pth", **arguments)
    with pytest.raises(ArtifactError, match=message):
        open_tiny(checkpoint=path)


@pytest.mark.parametrize(
    ("address", "said", "message"),
    [
        ("vit_b_61", {}, "has no model 'vit_b_61'. Did you mean vit_b_16"),
        ("zzz", {}, r"has no model 'zzz', see torchvision.models.list_models\(\)"),
        ("vit_b_16.V9", {}, "has no weights 'V9' for vit_b_16, known are IMAGENET1K_V1"),
        ("fasterrcnn_resnet50_fpn", {}, "does not classify images"),
        ("vit_tests_16", {"model_args": {"dpth": 2}}, "cannot make vit_tests_16 with dpth=2"),
        ("vit_tests_16", {"image_size": (64, 96)}, "takes square images only"),
        ("squeezenet1_1", {"num_classes": 0}, "--num-classes 0: edge-vit cannot take the head"),
    ],
)  # fmt: skip
def test_refuses_what_torchvision_does_not_have(address, said, message):
    with pytest.raises(SpecError, match=message):
        open_source(SourceRequest(f"torchvision:{address}", random_weights=True, **said))


@pytest.fixture
def empty_cache(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path
    torch.hub.set_dir(before)


def test_pretrained_weights_without_a_network_are_one_line(monkeypatch, empty_cache, capfd):
    def no_network(*_args, **_kwargs):
        raise URLError("no network")

    monkeypatch.setattr(libraries.urllib.request, "urlopen", no_network)
    with pytest.raises(EdgeVitError) as error:
        open_tiny()
    assert str(error.value) == (
        "torchvision:vit_tests_16: no pretrained weights (download.pytorch.org cannot be reached). "
        "Add --checkpoint FILE, or --random-weights for shape and speed only"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [RuntimeError("invalid hash value"), URLError("cut off")], ids=str
)
def test_a_failed_download_is_one_line(monkeypatch, empty_cache, error):
    def fail(url, path, digest):
        assert digest == "c867db91"
        raise error

    monkeypatch.setattr("edge_vit.export.sources.libraries.is_reachable", lambda url: True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(EdgeVitError, match=r"no pretrained weights \(download failed: "):
        open_tiny()


def test_pretrained_weights_are_taken_from_torchs_cache(empty_cache):
    (empty_cache / "checkpoints").mkdir()
    url = models.ViT_B_16_Weights.DEFAULT.url
    _, model = save(empty_cache / "checkpoints" / url.rpartition("/")[2])
    images = torch.randn(1, 3, 224, 224)
    assert torch.allclose(open_tiny().module(images), model(images), atol=1e-5)


def test_never_takes_a_random_head_for_a_pretrained_one(empty_cache):
    with pytest.raises(EdgeVitError, match="torchvision's have 1000 classes, 10 were asked for"):
        open_tiny(num_classes=10)
