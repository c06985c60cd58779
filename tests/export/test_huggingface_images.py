"""Image processors of transformers in timm's words: the same pixels, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from small_folders import VIT_IMAGES, make, open_folder

from edge_vit.data.preprocess import preprocess
from edge_vit.errors import SpecError
from edge_vit.export.sources import huggingface_images
from edge_vit.spec import PreprocessSpec

PROCESSORS = {
    "squash": {**VIT_IMAGES, "resample": 2},
    "squash-then-crop": {
        **VIT_IMAGES,
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 40, "width": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
    },
    "shorter-side-then-crop": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 40},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "not-normalised": {**VIT_IMAGES, "do_normalize": False},
    "minus-one-to-one": {**VIT_IMAGES, "rescale_factor": 1 / 127.5},
    "not-rescaled": {**VIT_IMAGES, "do_rescale": False, "image_mean": [127.0] * 3},
}


@pytest.mark.parametrize("images", PROCESSORS.values(), ids=PROCESSORS)
def test_our_preprocessing_gives_the_pixels_of_transformers(tmp_path, images):
    make(tmp_path, images=images)
    spec = open_folder(tmp_path).preprocess
    ramp = np.linspace(0, 255, 60 * 80).reshape(60, 80)
    pixels = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1).astype(np.uint8)
    ours = (preprocess(pixels, spec) / 255.0 - spec.mean) / spec.std
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    theirs = processor(pixels, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    one_step = 1 / 255 / np.array(spec.std)  # they round once less or more than Pillow does
    assert (np.abs(ours - theirs) <= 1.01 * one_step).all()


def test_the_facts_of_known_processors_become_timms_words(tmp_path):
    def read(images):
        processor = getattr(transformers, images["image_processor_type"])(**images)
        return huggingface_images.translate(processor.to_dict(), "hf:x")

    halves = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert read(PROCESSORS["squash"]) == PreprocessSpec(
        (32, 32), "bilinear", 1.0, "squash", **halves
    )
    assert read(PROCESSORS["squash-then-crop"]) == PreprocessSpec(
        (32, 32), "bicubic", 0.8, "squash", **halves
    )
    assert read(PROCESSORS["shorter-side-then-crop"]) == PreprocessSpec((32, 32), "bicubic", 0.8)


@pytest.mark.parametrize(
    "processor", [transformers.YolosImageProcessor, transformers.DetrImageProcessor]
)
def test_a_detector_that_keeps_the_shape_of_images_gets_the_size_that_is_asked(processor):
    facts = processor().to_dict()  # shortest_edge 800, longest_edge 1333, no crop
    found = huggingface_images.translate(facts, "hf:x", (480, 640))
    assert (found.image_size, found.crop_mode, found.crop_pct) == ((480, 640), "squash", 1.0)
    with pytest.raises(SpecError, match="Add --image-size, such as --image-size 800"):
        huggingface_images.translate(facts, "hf:x")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({**VIT_IMAGES, "do_resize": False}, "do_resize false, but a graph has one input size"),
        (
            {**VIT_IMAGES, "image_processor_type": "BitImageProcessor", "do_center_crop": False,
             "size": {"shortest_edge": 32}},
            "keeps the shape of each image, .* Add --image-size, such as --image-size 32;",
        ),
        (
            {**VIT_IMAGES, "do_center_crop": True, "size": {"height": 48, "width": 32},
             "crop_size": {"height": 32, "width": 32}},
            "expected height and width, or shortest_edge with a crop",
        ),
        (None, "does not say how its images are prepared. Add --image-size 224 --mean"),
    ],
    ids=["no-resize", "no-fixed-size", "squashed-otherwise", "no-file"],
)  # fmt: skip
def test_refuses_preprocessing_that_it_cannot_repeat(tmp_path, images, message):
    make(tmp_path, images=images)
    with pytest.raises(SpecError, match=message):
        open_folder(tmp_path)


def test_a_folder_without_a_processor_takes_what_the_user_says(tmp_path):
    make(tmp_path, images=None)
    said = {"image_size": (32, 32), "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}
    assert open_folder(tmp_path, **said).preprocess == PreprocessSpec(**said)
