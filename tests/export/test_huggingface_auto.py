"""``hf:`` models without an entry of their own: the class that a config names, or why it is not."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import transformers
from small_folders import NAMES, SMALL, VIT_IMAGES, open_folder
from small_pairs import HALF, IMAGES, LABELS, TEXT, VISION, ask, logits_of, make_tokenizer

from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest, open_source

FOUR = {"depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2]}
SAM = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64}
BACKBONE = transformers.VitPoseBackboneConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=[32, 64],
    patch_size=[8, 8],
    out_indices=[2],
)
MAPS = {
    "GLPNForDepthEstimation": (
        {**FOUR, "hidden_sizes": [8, 16, 16, 16], "decoder_hidden_size": 8},
        ("depth", "predicted_depth"),
    ),
    "VitPoseForPoseEstimation": (
        {"backbone_config": BACKBONE, "num_labels": 5},
        ("dense", "heatmaps"),
    ),
    "Swin2SRForImageSuperResolution": (
        {"image_size": 16, "embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4},
        ("dense", "reconstruction"),
    ),
    "SamVisionModel": (
        {**SAM, "output_channels": 8, "patch_size": 16, "mlp_dim": 24, "window_size": 2},
        ("dense", "last_hidden_state"),
    ),
}
"""Class -> its configuration, and the task and the output that are taken."""
SIZES = {"VitPoseForPoseEstimation": (32, 64), "Swin2SRForImageSuperResolution": (16, 16)}


def save(folder, model):
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return model.eval()


_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 20, 32]}
OTHERS = {
    "PvtForImageClassification": {**_STAGES, "num_labels": 3},  # else its config wants 1000
    "PvtV2ForImageClassification": _STAGES,
    "SegformerForImageClassification": _STAGES,
    "Data2VecVisionForImageClassification": SMALL,
    "HieraForImageClassification": {
        **{"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1]},
        "num_heads": [1, 2, 4, 8],
    },
    "Aimv2VisionModel": SMALL,
    "ConvNextModel": _STAGES,
}


@pytest.mark.parametrize("class_name", OTHERS)
def test_classes_without_an_entry_of_their_own_are_found_in_transformers_tables(
    tmp_path, class_name
):
    has_head = "ForImage" in class_name
    named = {"id2label": NAMES} if has_head else {}
    config = {**OTHERS[class_name], **named}
    config.setdefault("image_size", 64)
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**config)).eval()
    model.save_pretrained(tmp_path)
    side = config["image_size"] if isinstance(config["image_size"], int) else 64
    facts = {**VIT_IMAGES, "size": {"height": side, "width": side}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    source = open_folder(tmp_path)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        output = model(images)
    wanted = output.logits if has_head else output.pooler_output
    assert torch.allclose(source.module(images), wanted, atol=1e-5)
    assert source.task == ("classification" if has_head else "features")
    assert source.labels == (("cat", "dog", "cow") if has_head else ())


@pytest.mark.parametrize("name", MAPS)
def test_a_class_whose_output_is_a_map_gives_it(tmp_path, name):
    config, (task, output) = MAPS[name]
    model_class = getattr(transformers, name)
    model = save(tmp_path, model_class(model_class.config_class(**config)))
    size = SIZES.get(name, (64, 64))
    source = open_source(SourceRequest(f"hf:{tmp_path}", image_size=size))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        (found,), wanted = source.module(images), model(pixel_values=images)[output]
    assert (source.task, source.preprocess.crop_mode) == (task, "squash")
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_the_encoder_of_masked_pretraining_gives_features(tmp_path):
    options = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1}
    config = transformers.ViTMAEConfig(**SMALL, **options, decoder_num_attention_heads=2)
    model = save(tmp_path, transformers.ViTMAEForPreTraining(config))
    source = open_source(SourceRequest(f"hf:{tmp_path}"))
    images = torch.randn(2, 3, 32, 32)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        wanted = model.vit(images).last_hidden_state[:, 0]
        assert torch.allclose(source.module(images), wanted, atol=1e-5)
    assert source.task == "features"


@pytest.fixture(scope="module")
def aimv2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aimv2")
    halves = {"vision_config": VISION, "text_config": TEXT}
    config = transformers.Aimv2Config(**halves, projection_dim=7)
    model = save(folder, transformers.Aimv2Model(config))
    return folder, model, make_tokenizer(folder)


def test_a_pair_gives_the_logits_of_transformers(aimv2):
    folder, model, tokenizer = aimv2
    source = open_source(ask(folder))
    images = torch.randn(2, 3, 32, 32)
    wanted = logits_of(
        model, tokenizer, [f"a photo of a {label}" for label in LABELS], pixel_values=images
    )
    with torch.no_grad():
        assert torch.allclose(source.module(images), wanted, atol=1e-4)
    assert (source.task, source.labels) == ("classification", LABELS)


def test_a_pair_without_prompts_gives_the_features_of_its_image_tower(aimv2):
    folder, model, _ = aimv2
    source = open_source(SourceRequest(f"hf:{folder}"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model.get_image_features(pixel_values=images).pooler_output
        assert torch.allclose(source.module(images), wanted, atol=1e-5)
    assert source.task == "features"


def test_a_pair_whose_logits_are_no_scaled_cosines_is_refused(aimv2, monkeypatch):
    folder, model, _ = aimv2
    forward = type(model).forward

    @functools.wraps(forward)
    def halved(self, *args, **kwargs):
        found = forward(self, *args, **kwargs)
        found.logits_per_image = found.logits_per_image / 2 + 1
        return found

    monkeypatch.setattr(type(model), "forward", halved)
    with pytest.raises(SpecError, match="are not scaled cosines of its image and text features"):
        open_source(ask(folder))


def test_a_model_that_needs_more_than_images_says_what_to_wrap(tmp_path):
    text = {**TEXT, "encoder_hidden_size": HALF["hidden_size"]}
    config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=7)
    save(tmp_path, transformers.BlipForConditionalGeneration(config))
    with pytest.raises(
        SpecError,
        match=r"BlipForConditionalGeneration does not run on images .*wrap its vision_model",
    ):
        open_source(SourceRequest(f"hf:{tmp_path}"))


def test_a_class_that_transformers_does_not_have_is_named(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "blip", "architectures": ["BlipForSomethingElse"]})
    )
    with pytest.raises(SpecError, match="names BlipForSomethingElse, which transformers"):
        open_source(SourceRequest(f"hf:{tmp_path}", random_weights=True))


def test_a_classifier_that_gives_no_map_says_what_it_gives(tmp_path):
    config = transformers.ViTConfig(**SMALL, num_labels=3)
    save(tmp_path, transformers.ViTForImageClassification(config))
    with pytest.raises(SpecError, match=r"--task depth: .* gives logits \(1, 3\), expected a map"):
        open_source(SourceRequest(f"hf:{tmp_path}", task="depth"))


def test_a_detector_of_what_a_text_names_says_that_it_takes_the_text(tmp_path):
    halves = {"vision_config": VISION, "text_config": {**TEXT, "max_position_embeddings": 16}}
    config = transformers.OwlViTConfig(**halves, projection_dim=7)
    save(tmp_path, transformers.OwlViTForObjectDetection(config))
    with pytest.raises(SpecError, match=r"alone \(it takes input_ids too\)\. Wrap .*python:$"):
        open_source(SourceRequest(f"hf:{tmp_path}"))
