"""Every pixel of `preprocess` against timm's and torchvision's own transforms: the bound is 0."""

from __future__ import annotations

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from edge_vit.data.preprocess import digest, preprocess
from edge_vit.errors import ShapeError
from edge_vit.spec import PreprocessSpec

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash", "border")
CHINA = load_sample_image("china.jpg")  # (427, 640, 3)

IMAGES = {
    "landscape": CHINA,
    "portrait": np.ascontiguousarray(np.rot90(CHINA)),
    "square": CHINA[:400, 100:500],
    "panorama": CHINA[200:271],
    "odd": CHINA[1:332, 3:500],
    "tiny": CHINA[100:111, 300:323],
    "strip": CHINA[:, 320:336],
    "one_pixel": CHINA[:1, :1],
}


def timm_pixels(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """The pixels that timm's evaluation transform makes, before it turns them into floats."""
    transform = create_transform(
        input_size=(3, *spec.image_size),
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        normalize=False,
    )
    return transform(Image.fromarray(pixels)).permute(1, 2, 0).numpy()


def assert_same(ours: np.ndarray, theirs: np.ndarray, spec: PreprocessSpec) -> None:
    assert ours.dtype == np.uint8
    assert ours.shape == (*spec.image_size, 3)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() == 0


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("pixels", IMAGES.values(), ids=IMAGES)
def test_equals_timm_for_every_interpolation_and_crop_mode(pixels, interpolation, crop_mode):
    for crop_pct in (0.875, 1.0):
        spec = PreprocessSpec((96, 96), interpolation, crop_pct, crop_mode)
        assert_same(preprocess(pixels, spec), timm_pixels(pixels, spec), spec)


@pytest.mark.uncounted
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize(
    ("image_size", "crop_pct"),
    [
        ((224, 224), 0.875),
        ((224, 224), 0.9),
        ((224, 224), 0.95),
        ((224, 224), 0.96),
        ((384, 384), 1.0),
        ((518, 518), 1.0),
        ((518, 518), 0.875),
        ((32, 32), 0.875),
        ((192, 256), 0.9),
        ((256, 192), 0.875),
        ((224, 96), 1.0),
        ((37, 91), 0.93),
    ],
    ids=str,
)
def test_equals_timm_for_every_size_and_crop_pct(image_size, crop_pct, crop_mode):
    spec = PreprocessSpec(image_size, "bicubic", crop_pct, crop_mode)
    for pixels in IMAGES.values():
        assert_same(preprocess(pixels, spec), timm_pixels(pixels, spec), spec)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(4, 200),
    width=st.integers(4, 200),
    target=st.tuples(st.integers(32, 96), st.integers(32, 96)),
    is_square=st.booleans(),
    crop_pct=st.sampled_from([0.5, 0.8, 0.875, 0.9, 0.95, 1.0]),
    crop_mode=st.sampled_from(CROP_MODES),
    interpolation=st.sampled_from(INTERPOLATIONS),
)
def test_equals_timm_for_any_shape(
    height, width, target, is_square, crop_pct, crop_mode, interpolation
):
    size = (target[0], target[0]) if is_square else target
    spec = PreprocessSpec(size, interpolation, crop_pct, crop_mode)
    pixels = CHINA[50 : 50 + height, 70 : 70 + width]
    assert_same(preprocess(pixels, spec), timm_pixels(pixels, spec), spec)


@pytest.mark.parametrize(
    ("resize", "crop", "interpolation"),
    [
        *((73, 64, interpolation) for interpolation in INTERPOLATIONS),
        *((232, 224, interpolation) for interpolation in INTERPOLATIONS),
        (256, 224, "bilinear"),
        (242, 224, "bilinear"),
        (224, 224, "bicubic"),
        (384, 384, "bicubic"),
        (518, 518, "bicubic"),
    ],
)
def test_equals_torchvision_preset(resize, crop, interpolation):
    mode = InterpolationMode(interpolation)
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, mean=(0,) * 3, std=(1,) * 3, interpolation=mode
    )
    spec = PreprocessSpec((crop, crop), interpolation, crop / resize, "center")
    for name in ("landscape", "portrait", "square", "odd", "tiny"):
        theirs = preset(Image.fromarray(IMAGES[name])).mul(255).round().permute(1, 2, 0).numpy()
        assert_same(preprocess(IMAGES[name], spec), theirs, spec)


@pytest.mark.parametrize(
    "weights",
    [
        torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1,
        torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        torchvision.models.ViT_L_16_Weights.IMAGENET1K_V1,
    ],
    ids=str,
)
def test_equals_torchvision_weights_with_the_normalisation_that_the_graph_does(weights):
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    spec = PreprocessSpec((crop, crop), preset.interpolation.value, crop / resize)
    for name in ("landscape", "portrait"):
        ours = preprocess(IMAGES[name], spec).astype(np.float32) / 255
        ours = (ours - np.float32(spec.mean)) / np.float32(spec.std)
        theirs = preset(Image.fromarray(IMAGES[name])).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_border_keeps_one_pixel_of_a_side_that_timm_rounds_to_nothing():
    spec = PreprocessSpec((96, 96), "bicubic", 1.0, "border", mean=(0.0, 0.0, 0.0))
    thin = np.full((427, 1, 3), 200, np.uint8)
    with pytest.raises(ValueError, match="must be > 0"):
        timm_pixels(thin, spec)
    expected = np.zeros((96, 96, 3), np.uint8)
    expected[:, 47] = 200
    assert np.array_equal(preprocess(thin, spec), expected)


def test_border_is_the_mean_colour():
    spec = PreprocessSpec((96, 96), crop_pct=1.0, crop_mode="border", mean=(0.2, 0.5, 0.9))
    assert preprocess(IMAGES["panorama"], spec)[0, 0].tolist() == [51, 128, 230]


def test_border_colour_of_a_mean_outside_the_range_is_the_nearest_that_uint8_has():
    spec = PreprocessSpec((96, 96), crop_pct=1.0, crop_mode="border", mean=(-1.0, 0.0, 2.0))
    assert preprocess(IMAGES["panorama"], spec)[0, 0].tolist() == [0, 0, 255]


def test_result_belongs_to_the_caller():
    spec = PreprocessSpec((64, 64), crop_pct=1.0)
    pixels = np.array(CHINA[:64, :64])  # already of the right size: nothing to resize
    result = preprocess(pixels, spec)
    assert result.flags.writeable
    assert result.flags.c_contiguous
    result[:] = 0
    assert np.array_equal(pixels, CHINA[:64, :64])


def test_takes_views_and_read_only_arrays():
    spec = PreprocessSpec((64, 64))
    flipped = CHINA[::-2, ::-1]
    frozen = flipped.copy()
    frozen.flags.writeable = False
    assert np.array_equal(preprocess(flipped, spec), preprocess(frozen, spec))


def test_refuses_image_too_thin_to_resize():
    strip = np.zeros((1, 1_000_000, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"\(1, 1000000, 3\).* to be resized to 256 x 256000000"):
        preprocess(strip, PreprocessSpec((224, 224)))


NOT_IMAGES = {
    "float": (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
    "gray": (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
    "rgba": (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
    "channels_first": (np.zeros((3, 8, 8), np.uint8), r"uint8 \(3, 8, 8\)"),
    "empty": (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)"),
    "list": ([[[1, 2, 3]]], r"list \(1, 1, 3\)"),
}


@pytest.mark.parametrize("function", [lambda p: preprocess(p, PreprocessSpec((8, 8))), digest])
@pytest.mark.parametrize(("pixels", "got"), NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_refuses_what_is_no_image(function, pixels, got):
    with pytest.raises(ShapeError, match=f"image: got {got}, expected uint8"):
        function(pixels)


def test_an_image_model_refuses_a_clip():
    with pytest.raises(ShapeError, match=r"image: got uint8 \(1, 8, 8, 3\), expected uint8"):
        preprocess(np.zeros((1, 8, 8, 3), np.uint8), PreprocessSpec((8, 8)))


def test_digest_tells_pixels_and_shape_apart():
    images = [CHINA, CHINA[::-1], CHINA[:, ::-1], CHINA[..., ::-1], CHINA.reshape(640, 427, 3)]
    assert len({digest(pixels) for pixels in images}) == len(images)


def test_digest_depends_on_nothing_but_pixels_and_shape():
    assert digest(CHINA[::2, ::2]) == digest(CHINA[::2, ::2].copy())
    assert digest(np.asfortranarray(CHINA)) == digest(CHINA)
    # Written down, because digests are stored in calibration tables and compared years later.
    assert digest(np.zeros((1, 2, 3), np.uint8)) == (
        "0c30bbcda1b776c7ef565eac34e85eb7369cda8267947f5038a93fa71dfcbd5a"
    )
