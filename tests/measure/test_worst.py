import base64
import io

import numpy as np
import pytest
from PIL import Image

from edge_vit.measure.worst import SeenImage, WorstImages, thumbnail_png


def _offer_all(worst, divergences):
    for index, divergence in enumerate(divergences):
        image = SeenImage(index, f"{index}.png", np.zeros((2, 2, 3), np.uint8), None)
        worst.offer(divergence, image, np.zeros(3), np.ones(3))


@pytest.mark.parametrize(
    ("size", "divergences", "expected"),
    [
        (3, [1, 5, 2, 9, 4], [3, 1, 4]),
        (2, [7, 7, 7], [0, 1]),
        (9, [1, 3], [1, 0]),
        (9, [0, 2, 0], [1]),
        (0, [1, 2], []),
    ],
    ids=[
        "largest",
        "of equal ones the first",
        "fewer than size",
        "none without divergence",
        "none",
    ],
)
def test_keeps_the_most_divergent_worst_first(size, divergences, expected):
    worst = WorstImages(size)
    _offer_all(worst, divergences)
    assert [entry.image.index for entry in worst.worst_first()] == expected


def test_keeps_copies_of_the_outputs():
    worst, batch = WorstImages(1), np.zeros((1, 3))
    image = SeenImage(0, "0.png", np.zeros((2, 2, 3), np.uint8), None)
    worst.offer(1.0, image, batch[0], batch[0])
    batch[:] = 7
    assert (worst.worst_first()[0].reference == 0).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8), (8, 8)), ((512, 256), (64, 128))], ids=["small", "large"]
)
def test_thumbnail_is_a_png_of_at_most_128_pixels(shape, size):
    pixels = np.full((*shape, 3), 40, np.uint8)
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail_png(pixels))))
    assert (image.format, image.size) == ("PNG", size)
    assert (np.asarray(image) == 40).all()
