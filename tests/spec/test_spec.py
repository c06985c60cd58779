from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input, task_output
from edge_vit.values import from_json, to_json


def model(labels=("a", "b", "c"), task="classification", batch=None) -> ModelSpec:
    return ModelSpec(
        name="tiny",
        source="edgevit:tiny",
        task=task,
        labels=labels,
        inputs=(image_input((32, 48), batch),),
        outputs=(task_output(task, 3, batch),),
        preprocess=PreprocessSpec((32, 48)),
    )


@pytest.mark.parametrize(
    ("side", "crop_pct", "expected"),
    [
        (224, 0.875, 256),
        (224, 0.9, 248),
        (224, 0.95, 235),
        (224, 0.96, 233),
        (224, 1.0, 224),
        (240, 0.96, 250),
        (384, 0.96, 400),
        (518, 1.0, 518),
        (32, 0.875, 36),
    ],
)
def test_resize_size_is_rounded_down_as_timm_does(side, crop_pct, expected):
    assert PreprocessSpec((side, side), crop_pct=crop_pct).resize_size == (expected, expected)
    assert math.floor(side / crop_pct) == expected


def test_resize_size_is_exact_for_a_crop_pct_computed_from_two_sizes():
    for crop in (32, 96, 192, 224, 256, 384, 518):
        for resize in range(crop, 2 * crop):
            spec = PreprocessSpec((crop, crop), crop_pct=crop / resize)
            assert spec.resize_size == (resize, resize)


def test_resize_size_is_height_then_width():
    assert PreprocessSpec((192, 256), crop_pct=0.5).resize_size == (384, 512)


WRONG = {
    "no_size": (
        {"image_size": (0, 224)},
        r"image_size: got \(0, 224\), expected \(height, width\)",
    ),
    "three_sizes": ({"image_size": (3, 224, 224)}, "image_size: got .*, expected 2 values"),
    "one_size": ({"image_size": 224}, "image_size: got 224, expected 2 values"),
    "crop_pct_zero": ({"crop_pct": 0.0}, "crop_pct: got 0.0, expected more than 0 and at most 1"),
    "crop_pct_above_one": ({"crop_pct": 1.14}, "crop_pct: got 1.14"),
    "crop_pct_nan": ({"crop_pct": math.nan}, "crop_pct: got nan"),
    "interpolation": ({"interpolation": "cubic"}, "interpolation: got 'cubic', .* bicubic"),
    "crop_mode": ({"crop_mode": "middle"}, "crop_mode: got 'middle', .* center, squash, border"),
    "gray_mean": ({"mean": (0.5,)}, "mean: got .*0.5.*, expected 3 values"),
    "nan_mean": ({"mean": (0.5, math.nan, 0.5)}, "mean: got"),
    "zero_std": ({"std": (0.5, 0.0, 0.5)}, "std: got .* expected three numbers above 0"),
    "infinite_std": ({"std": (0.5, math.inf, 0.5)}, "std: got .* finite"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_refuses_impossible_preprocessing(change, message):
    with pytest.raises(SpecError, match=message):
        PreprocessSpec(**{"image_size": (224, 224), **change})


def test_a_model_trained_with_mean_and_std_of_bytes_stays_readable():
    spec = PreprocessSpec((8, 8), mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    assert from_json(PreprocessSpec, to_json(spec)) == spec


def test_lists_arrays_and_numbers_of_numpy_are_taken():
    mean = np.array([0.5, 0.25, 0.125], np.float32)
    spec = PreprocessSpec([np.int64(32), 64], mean=mean, std=[1, 1, 1])
    assert spec == PreprocessSpec((32, 64), mean=(0.5, 0.25, 0.125), std=(1.0, 1.0, 1.0))
    assert hash(spec)


def test_tensor_prints_as_messages_show_it():
    assert str(image_input((224, 192))) == "uint8 (batch, 224, 192, 3)"
    assert str(image_input((224, 192), batch=4)) == "uint8 (4, 224, 192, 3)"
    assert str(TensorSpec("logits", "float32", ())) == "float32 ()"


@pytest.mark.parametrize(("task", "name"), [("classification", "logits"), ("features", "features")])
def test_output_is_named_by_its_task(task, name):
    assert task_output(task, 10) == TensorSpec(name, "float32", ("batch", 10))
    assert task_output(task, 10, batch=2) == TensorSpec(name, "float32", (2, 10))


def test_model_reads_its_facts_from_its_tensors():
    assert model().num_outputs == 3
    assert model().static_batch is None
    assert model(batch=8).static_batch == 8


def test_label_is_the_index_where_no_names_are_known():
    assert model().label(1) == "b"
    assert model(labels=()).label(1) == "1"


def test_refuses_other_number_of_labels_than_classes():
    with pytest.raises(SpecError, match="labels of tiny: got 2, expected 3, one per class"):
        model(labels=("a", "b"))


def test_features_may_have_any_labels():
    assert model(labels=(), task="features").num_outputs == 3


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"depth": 12, "embed_dim": 384, "num_tokens": 197}, "12 blocks, 197 tokens of 384"),
        ({"depth": 1, "embed_dim": 8}, "1 block, number of tokens not known, each of 8"),
        ({"depth": 4, "num_tokens": 0}, "4 blocks, number of tokens not known, their width ch"),
    ],
)
def test_what_is_not_known_of_the_blocks_is_no_number(facts, text):
    assert replace(model(), **facts).describe_blocks().startswith(text)
