"""Golden images: spread over the source and its classes, all different, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_vit.bundle import Golden
from edge_vit.data.images import ArraySource, open_image_source
from edge_vit.data.preprocess import digest
from edge_vit.errors import ImageError
from edge_vit.export.golden import choose_golden

RNG = np.random.default_rng(0)


def noise(count: int, size: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def digests(items) -> set[str]:
    return {digest(item.pixels) for item in items}


def positions(chosen, pixels) -> list[int]:
    places = {digest(image): index for index, image in enumerate(pixels)}
    return [places[digest(item.pixels)] for item in chosen]


def test_they_lie_in_every_fifth_of_the_source():
    pixels = noise(100)
    chosen = positions(choose_golden(ArraySource(pixels)), pixels)
    assert [index // 20 for index in chosen] == [0, 1, 2, 3, 4]
    assert chosen != [0, 20, 40, 60, 80]


def test_the_same_ones_are_chosen_whatever_order_a_stretch_comes_in():
    pixels = noise(50)
    order = np.concatenate([RNG.permutation(10) + start for start in range(0, 50, 10)])
    assert digests(choose_golden(ArraySource(pixels))) == digests(
        choose_golden(ArraySource(pixels[order]))
    )


@pytest.mark.parametrize("order", ["sorted", "mixed"])
def test_they_are_of_different_classes(order):
    pixels, labels = noise(60), np.arange(60) % 5
    labels = np.sort(labels) if order == "sorted" else labels
    chosen = choose_golden(ArraySource(pixels, labels, list("abcde")))
    assert sorted(item.label for item in chosen) == [0, 1, 2, 3, 4]


def test_a_rare_class_does_not_hide_behind_a_common_one():
    labels = np.zeros(40, int)
    labels[::4] = 1
    chosen = choose_golden(ArraySource(noise(40), labels, ["common", "rare"]))
    assert {item.label for item in chosen} == {0, 1}


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (3, 3), (5, 5), (6, 5)])
def test_few_images_are_all_taken(count, wanted):
    pixels = noise(count)
    assert len(digests(choose_golden(ArraySource(pixels)))) == wanted


def test_copies_count_once():
    pixels = np.concatenate([np.repeat(noise(1), 38, axis=0), noise(2)])
    assert len(choose_golden(ArraySource(pixels))) <= 3
    assert len(choose_golden(ArraySource(np.repeat(pixels[:1], 9, axis=0)))) == 1


def test_an_image_that_cannot_be_read_is_passed_over(tmp_path):
    for index, pixels in enumerate(noise(10)):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(b"no image")
    assert len(choose_golden(open_image_source(tmp_path))) == 5
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"\d\.png"):
        choose_golden(open_image_source(tmp_path))


class Frames:
    """Images that can only be gone through, as those of a video."""

    labels = ()
    has_labels = False

    def __init__(self, pixels):
        self._source = ArraySource(pixels)

    def __len__(self):
        return len(self._source)

    def __iter__(self):
        return iter(self._source)


def test_frames_of_a_video_are_spread_too():
    pixels = noise(50)
    assert positions(choose_golden(Frames(pixels)), pixels) == [0, 10, 20, 30, 40]


def test_a_bundle_tells_which_images_they_were():
    pixels = noise(3)
    golden = Golden(pixels, np.zeros((3, 2), np.float32))
    assert golden.digests == {digest(image) for image in pixels}
