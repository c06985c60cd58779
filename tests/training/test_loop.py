"""Batches: value ranges, normalisation, and small random changes of the images."""

import pytest
import torch

from edge_vit.spec import PreprocessSpec
from edge_vit.training import loop
from edge_vit.training.loop import augment, normalise, to_pixels


def test_pixels_are_from_0_to_1_channels_first():
    images = torch.zeros(1, 4, 5, 3, dtype=torch.uint8)
    images[0, 1, 2] = torch.tensor([0, 51, 255], dtype=torch.uint8)
    pixels = to_pixels(images)
    assert pixels.shape == (1, 3, 4, 5)
    assert pixels[0, :, 1, 2].tolist() == pytest.approx([0, 0.2, 1])


def test_normalises_each_channel_by_its_own_mean_and_std():
    spec = PreprocessSpec((2, 2), mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    normalised = normalise(torch.full((1, 3, 2, 2), 0.5), spec)
    assert normalised[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.0, -2.0])


def square():
    pixels = torch.zeros(16, 3, 32, 32)
    pixels[:, :, 10:22, 10:22] = 1
    return pixels


def test_augmentation_changes_each_image_in_its_own_way_and_little():
    torch.manual_seed(0)
    changed = augment(square())
    assert changed.shape == (16, 3, 32, 32)
    assert len({image.numpy().tobytes() for image in changed}) == 16
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed[:, :, 15:17, 15:17] > 0.5).all()
    assert changed.mean().item() == pytest.approx(square().mean().item(), rel=0.15)


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_ROTATION_DEG", 90), ("MAX_SHIFT", 0.25), ("MAX_SCALING", 0.5)]
)
def test_each_limit_reaches_as_far_as_it_says(monkeypatch, limit, value):
    for name in ("MAX_ROTATION_DEG", "MAX_SHIFT", "MAX_SCALING"):
        monkeypatch.setattr(loop, name, value if name == limit else 0)
    monkeypatch.setattr(torch, "rand", torch.ones)  # the largest draw
    changed = augment(square())[0, 0]
    rows, columns = (changed > 0.5).nonzero().unbind(dim=1)
    wanted = {
        "MAX_ROTATION_DEG": (10, 21, 10, 21),  # a square looks the same
        "MAX_SHIFT": (2, 13, 2, 13),  # a quarter of 32 pixels, towards the origin
        "MAX_SCALING": (12, 19, 12, 19),  # 12 / 1.5 = 8 pixels wide
    }
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == wanted[limit]


def test_no_limits_leave_images_as_they_are(monkeypatch):
    for name in ("MAX_ROTATION_DEG", "MAX_SHIFT", "MAX_SCALING"):
        monkeypatch.setattr(loop, name, 0)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.allclose(augment(pixels), pixels, atol=1e-5)
