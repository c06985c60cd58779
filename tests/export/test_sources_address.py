"""Addresses, requests and model arguments: what they mean and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest, open_source, parse_model_args
from edge_vit.spec import PreprocessSpec


@pytest.mark.parametrize(
    ("address", "suggestion"),
    [
        ("vit_small_patch16_224", "timm:vit_small_patch16_224"),
        ("best.safetensors", "edgevit:best.safetensors"),
        ("models/vit.onnx", "onnx:models/vit.onnx"),
        ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
        ("tim:vit_small_patch16_224", "timm:vit_small_patch16_224"),
    ],
)
def test_suggests_a_scheme(address, suggestion):
    with pytest.raises(SpecError, match=rf"Did you mean {suggestion}\?"):
        open_source(SourceRequest(address))


@pytest.mark.parametrize("address", ["xyz:model", "timm:", ":vit", ""])
def test_lists_the_schemes_where_the_address_has_none_of_them(address):
    with pytest.raises(SpecError) as error:
        open_source(SourceRequest(address))
    for scheme in ("edgevit:", "timm:", "torchvision:", "hf:", "python:", "onnx:"):
        assert scheme in str(error.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"checkpoint": Path("x.pth"), "random_weights": True}, "exclude each other"),
        (
            {"weights_key": "ema", "random_weights": True},
            "^--weights-key: .* has no check",
        ),
        (
            {"checkpoint_size": (2, 1), "random_weights": True},
            "^--checkpoint-size: .* has no",
        ),
        ({"checkpoint": {"head.weight": 1}}, "checkpoint: got {'head.*, expected Path"),
        ({"mean": 0.5}, "mean: got 0.5, expected 3 values"),
        ({"mean": (123.7, 116.3, 103.5)}, r"values from 0 to 1\. Divide mean"),
        ({"std": (255, 255, 255)}, r"values from 0 to 1\. Divide mean"),
        ({"threshold": "0.5"}, "threshold: got '0.5', expected a number"),
        ({"num_classes": -1}, "num_classes: got -1, expected 0"),
        ({"num_classes": 3, "labels": ("a", "b")}, "labels: got 2 for 3 classes"),
    ],
    ids=[
        "checkpoint-and-random",
        "key-and-random",
        "size-and-random",
        *("tensors", "one mean", "mean of bytes", "std of bytes", "text"),
        "negative-classes",
        "labels-against-classes",
    ],
)
def test_refuses_a_request_that_contradicts_itself(said, message):
    with pytest.raises(SpecError, match=message):
        SourceRequest("timm:vit_tiny_patch16_224", **said)


def test_a_request_has_the_types_that_it_declares():
    said = {"checkpoint": "x.pth", "labels": ["a", "b"], "image_size": [64, 32]}
    request = SourceRequest("timm:vit_tiny_patch16_224", **said)
    assert (request.checkpoint, request.labels) == (Path("x.pth"), ("a", "b"))
    assert request.image_size == (64, 32)


def test_a_module_in_place_of_an_address_is_sent_to_python():
    with pytest.raises(SpecError, match=r"address: got a dict, .* python:package.module:function"):
        SourceRequest({})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("depth=2", 2),
        ("init_values=1e-5", 1e-5),
        ("drop_rate=.5", 0.5),
        ("qkv_bias=true", True),
        ("qk_norm=False", False),
        ("norm=none", None),
        ("sizes=[2, 4]", [2, 4]),
        ("global_pool=avg", "avg"),
        ("equation=a=b", "a=b"),
        ("word=nan", "nan"),
        ("empty=", ""),
    ],
)
def test_reads_model_arguments_by_their_type(text, value):
    (parsed,) = parse_model_args([text]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth", "got 'depth', expected KEY=VALUE"),
        ("=2", "got '=2', expected KEY=VALUE"),
        ("sizes=[2,", "--model-arg sizes: got '\\[2,', expected a JSON list"),
    ],
)
def test_refuses_model_arguments_that_say_nothing(text, message):
    with pytest.raises(SpecError, match=message):
        parse_model_args([text])


def test_overrides_go_on_top_of_the_models_own_preprocessing():
    own = PreprocessSpec((224, 224), interpolation="bilinear", crop_pct=0.9)
    request = SourceRequest("timm:x", image_size=(384, 384), std=(0.5, 0.5, 0.5))
    assert request.refine(own) == PreprocessSpec(
        (384, 384), interpolation="bilinear", crop_pct=0.9, std=(0.5, 0.5, 0.5)
    )


def test_an_impossible_override_is_refused():
    with pytest.raises(SpecError, match=r"crop_pct: got 2\.0"):
        SourceRequest("timm:x", crop_pct=2.0).refine(PreprocessSpec((8, 8)))


def test_asks_for_exactly_the_options_that_are_missing():
    with pytest.raises(SpecError, match=r"Add --image-size 224 --mean \S+ --std \S+ \("):
        SourceRequest("python:m:f").whole_preprocess()
    with pytest.raises(SpecError, match=r"Add --std \S+ \("):
        SourceRequest("onnx:f", mean=(0.5, 0.5, 0.5)).whole_preprocess((8, 8))


def test_labels_alone_tell_the_number_of_classes():
    assert SourceRequest("timm:x", labels=("a", "b", "c")).classes == 3
    assert SourceRequest("timm:x", num_classes=0).classes == 0
    assert SourceRequest("timm:x").classes is None


@pytest.mark.parametrize("address", ["onnx:x.onnx", "edgevit:x.safetensors", "edgevit:vit_digits"])
@pytest.mark.parametrize("said", [{"weights_key": "ema"}, {"checkpoint_size": (2, 1)}])
def test_options_about_a_checkpoint_are_refused_where_there_is_no_choice(address, said):
    with pytest.raises(SpecError, match=r"^--(weights-key|checkpoint-size): .* leave it out"):
        open_source(SourceRequest(address, **said))
