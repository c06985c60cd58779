from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from camera.scripted import tiny_spec
from PIL import Image

from edge_vit.camera import preprocessing
from edge_vit.camera.preprocessing import (
    BACKENDS,
    MAX_MEAN_DIFF,
    Preprocessing,
    differ,
)
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ShapeError, SpecError
from edge_vit.spec import PreprocessSpec

SPEC = tiny_spec(image_size=32)
SIZES = [(480, 640), (64, 48), (33, 32), (20, 30), (400, 33), (1080, 1920)]


def photo(height, width, seed=0):
    """Return a picture with large shapes and fine detail, as a camera gives it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "mode", "interpolation"),
    list(
        itertools.product(SIZES, ["center", "squash", "border"], ["bicubic", "bilinear", "lanczos"])
    ),
)
def test_cropping_first_changes_little_but_rounding(size, mode, interpolation):
    spec = PreprocessSpec((32, 32), interpolation, 0.875, mode)
    pixels = photo(*size)
    mean_diff, max_diff = differ(BACKENDS["cropped"](pixels, spec), preprocess(pixels, spec))
    assert max_diff <= 12  # where two edges meet
    assert mean_diff < 0.5


@pytest.mark.parametrize("size", SIZES)
def test_reducing_first_stays_within_the_limit_on_pictures(size):
    spec = PreprocessSpec((32, 32))
    pixels = photo(*size)
    assert differ(BACKENDS["reduced"](pixels, spec), preprocess(pixels, spec))[0] <= MAX_MEAN_DIFF


def test_a_size_that_is_not_square_is_met():
    spec = PreprocessSpec((24, 40), crop_pct=0.9)
    pixels = photo(480, 640)
    for way in BACKENDS.values():
        assert way(pixels, spec).shape == (24, 40, 3)
    assert differ(BACKENDS["cropped"](pixels, spec), preprocess(pixels, spec))[1] <= 1


def test_auto_takes_the_fastest_that_is_close_on_a_frame_of_each_size(monkeypatch, caplog):
    calls = []

    def reduced(pixels, spec):
        calls.append(pixels.shape)
        return preprocess(pixels, spec) // (2 if pixels.shape[0] == 64 else 1)

    monkeypatch.setitem(BACKENDS, "reduced", reduced)
    prepare = Preprocessing(SPEC.preprocess, "auto")
    good, bad = photo(48, 64), photo(64, 48)
    for pixels in (good, good, bad, bad, bad):
        expected = preprocess(pixels, SPEC.preprocess)
        assert differ(prepare(pixels), expected)[0] <= MAX_MEAN_DIFF
    assert calls == [good.shape, good.shape, bad.shape]  # never again where it was refused
    assert "preprocessing reduced at 48x64: mean difference" in caplog.text
    assert prepare.description == "auto; reduced for 64x48; cropped for 48x64"


def test_one_that_is_asked_for_and_not_close_gives_way_to_the_reference(monkeypatch):
    monkeypatch.setitem(BACKENDS, "reduced", lambda pixels, spec: preprocess(pixels, spec) // 2)
    prepare, pixels = Preprocessing(SPEC.preprocess, "reduced"), photo(48, 64)
    for _ in range(2):
        np.testing.assert_array_equal(prepare(pixels), preprocess(pixels, SPEC.preprocess))
    assert prepare.description == "reduced; pillow for 64x48"


def test_the_reference_compares_nothing():
    prepare, pixels = Preprocessing(SPEC.preprocess), photo(48, 64)
    np.testing.assert_array_equal(prepare(pixels), preprocess(pixels, SPEC.preprocess))
    assert prepare.description == "pillow"


def test_refuses_an_unknown_way():
    with pytest.raises(SpecError, match="got 'opengl', expected one of auto, reduced, cropped"):
        Preprocessing(SPEC.preprocess, "opengl")


def flat(height, width):
    return np.full((height, width, 3), 90, np.uint8)


def half(height, width):
    """Return a picture with one edge and nothing else."""
    pixels = flat(height, width)
    pixels[:, width // 2 :] = 200
    return pixels


def captioned(height, width):
    """Return a black picture with a line of text, as a camera without a signal gives it."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 9] = photo(height // 9, width)
    return pixels


def dark(height, width):
    """Return what a sensor gives at night: nothing but faint noise."""
    random = np.random.default_rng(1)
    return random.integers(0, 5, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("empty", [flat, half, captioned, dark])
def test_a_frame_that_shows_nothing_admits_no_way(empty, monkeypatch):
    monkeypatch.setitem(BACKENDS, "reduced", lambda pixels, spec: preprocess(pixels, spec)[:, ::-1])
    prepare = Preprocessing(SPEC.preprocess, "reduced")
    nothing, something = empty(48, 64), photo(48, 64)
    for pixels in (nothing, nothing, something, something, nothing):
        np.testing.assert_array_equal(prepare(pixels), preprocess(pixels, SPEC.preprocess))
        if pixels is nothing and "yet" in prepare.description:
            assert prepare.description.endswith("; pillow for 64x48, which has shown no detail yet")
    assert prepare.description == "reduced; pillow for 64x48"


def test_a_good_way_is_admitted_by_the_first_frame_with_detail():
    prepare = Preprocessing(SPEC.preprocess, "cropped")
    prepare(flat(480, 640))
    assert "no detail yet" in prepare.description
    prepare(photo(480, 640))
    assert "pillow" not in prepare.description


def test_the_description_can_be_read_while_frames_of_new_sizes_come():
    prepare, done, errors = Preprocessing(SPEC.preprocess, "cropped"), threading.Event(), []

    def read():
        while not done.is_set():
            try:
                assert prepare.description.startswith("cropped")
            except Exception as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for size in range(8, 72):
        prepare(photo(size, 9))
    done.set()
    for thread in threads:
        thread.join(30)
    assert errors == []


@pytest.mark.parametrize("name", BACKENDS)
def test_refuses_what_is_no_image(name):
    with pytest.raises(ShapeError):
        Preprocessing(SPEC.preprocess, name)(np.zeros((4, 4), np.uint8))


def test_every_way_is_in_the_order_of_its_speed():
    assert list(preprocessing.BACKENDS) == ["reduced", "cropped", "pillow"]


def test_frames_of_ever_new_sizes_are_not_remembered_for_ever():
    prepare = Preprocessing(SPEC.preprocess, "cropped")
    for width in range(100):
        prepare(photo(40, 40 + width))
    assert len(prepare._chosen) == preprocessing._MAX_SIZES
