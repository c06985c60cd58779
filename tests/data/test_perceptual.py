"""One picture, encoded anew, is one picture; different pictures stay different ones."""

import io

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.perceptual import (
    SIGNATURE_BYTES,
    SignatureIndex,
    signature,
    signature_from_text,
    signature_text,
)


def is_same_picture(first, second):
    return SignatureIndex([first]).find(second) is not None


RNG = np.random.default_rng(3)


def photograph(seed):
    """Return uint8 (96, 96, 3): smooth shapes of several sizes, as photographs have them."""
    rng, total = np.random.default_rng(seed), np.zeros((96, 96, 3))
    for side in (3, 6, 12, 24):
        patch = Image.fromarray(rng.integers(0, 256, (side, side, 3), "u1"))
        total += np.asarray(patch.resize((96, 96), Image.Resampling.BICUBIC), float)
    return (total / 4).clip(0, 255).astype(np.uint8)


def jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(pixels, share):
    side = round(pixels.shape[0] * share)
    small = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))


COPIES = {
    "saved as JPEG": lambda pixels: jpeg(pixels, 60),
    "halved": lambda pixels: resized(pixels, 0.5),
    "enlarged": lambda pixels: resized(pixels, 1.5),
    "brighter": lambda pixels: (pixels.astype(int) + 4).clip(0, 255).astype(np.uint8),
    "with noise": lambda p: (p + RNG.normal(0, 3, p.shape)).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_finds_a_picture_that_was_encoded_anew(change):
    pictures = [photograph(seed) for seed in range(12)]
    index = SignatureIndex(map(signature, pictures))
    assert [index.find(signature(change(p))) for p in pictures] == list(range(12))


def test_finds_a_plain_colour_that_was_saved_as_jpeg():
    for colour in RNG.integers(0, 256, (20, 3)):
        plain = np.full((64, 64, 3), colour, np.uint8)
        assert all(is_same_picture(signature(plain), signature(jpeg(plain, q))) for q in (40, 80))


def flat(height, width, colour):
    pixels = np.full((96, 96, 3), 255, np.uint8)
    pixels[:height, :width] = colour
    return pixels


def stripe(column):
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:, column : column + 3] = 255
    return pixels


DIFFERENT = {
    "photographs": [photograph(seed) for seed in range(40)],
    "flat graphics": [flat(h, w, (200, 0, 0)) for h in (20, 40, 60) for w in (20, 30, 40)],
    "colours alone": [flat(96, 96, c) for c in ((255, 0, 0), (0, 130, 0), (0, 0, 255))],
    "swatches": [flat(96, 96, (c, c, c + 20)) for c in range(0, 230, 5)],
    "hues": [flat(96, 96, (120 + c, 120, 120)) for c in range(0, 130, 12)],
    "thin lines": [stripe(column) for column in range(0, 90, 6)],
    "noise": list(RNG.integers(0, 256, (40, 32, 32, 3), "u1")),
}


@pytest.mark.parametrize("pictures", DIFFERENT.values(), ids=DIFFERENT)
def test_never_merges_pictures_that_are_different(pictures):
    signatures = [signature(picture) for picture in pictures]
    index = SignatureIndex()
    for each in signatures:
        assert index.find(each) is None
        index.add(each)
    assert len(index) == len(pictures)


def test_handwritten_digits_are_all_different():
    digits = pytest.importorskip("sklearn.datasets").load_digits().images[::4]
    pixels = np.repeat((digits * 15.9).astype(np.uint8)[..., None], 3, axis=3)
    signatures = [
        signature(np.asarray(Image.fromarray(digit).resize((64, 64), Image.Resampling.BICUBIC)))
        for digit in pixels
    ]
    index = SignatureIndex()
    assert [index.add(each) for each in signatures if index.find(each) is None][-1] == 449


def test_the_index_finds_what_looking_at_every_pair_finds():
    pictures = [photograph(seed) for seed in range(10)]
    pictures += [(p.astype(int) + RNG.integers(0, 9)).clip(0, 255).astype("u1") for p in pictures]
    signatures = [signature(p) for p in pictures]
    index = SignatureIndex(signatures[:10])
    for each in signatures[10:]:
        same = [i for i, other in enumerate(signatures[:10]) if is_same_picture(other, each)]
        assert index.find(each) == min(same, default=None)


def test_a_signature_survives_as_text():
    value = signature(photograph(1))
    assert len(value) == SIGNATURE_BYTES
    assert signature_from_text(signature_text(value)) == value
    with pytest.raises(ValueError, match="got 3 bytes, expected 288"):
        signature_from_text("AAAA")
