import base64
import io

import numpy as np
import pytest
from PIL import Image

from edge_vit.measure.comparison import thumbnail_png
from edge_vit.measure.partial import SeenImage, keep_worst, worst_of
from edge_vit.measure.results import Disagreement


def _offer_all(size, divergences, names="abcdefgh", kept=()):
    for index, (divergence, name) in enumerate(zip(divergences, names, strict=False)):
        image = SeenImage(index, name, np.zeros((2, 2, 3), np.uint8), None, digest=name)
        shown = Disagreement(name, "", None, (), (), divergence, False)
        kept = keep_worst(kept, size, divergence, image, lambda shown=shown: shown)
    return kept


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
    assert [entry.index for entry in _offer_all(size, divergences)] == expected


def test_the_order_and_the_parts_do_not_matter():
    whole = _offer_all(3, [2, 7, 7, 1, 7, 7], "fbcdae")
    first = _offer_all(3, [7, 7, 1], "eca")
    second = _offer_all(3, [7], "a", _offer_all(3, [7, 7, 2], "bxf"))
    names = [entry.shown.image for entry in whole]
    assert names == ["a", "b", "c"]
    merged = worst_of((*second, *first), 3)
    assert [entry.shown.image for entry in merged] == names


def test_only_what_is_kept_is_drawn():
    kept = _offer_all(1, [3.0])
    image = SeenImage(1, "b", np.zeros((2, 2, 3), np.uint8), None, digest="b")
    assert keep_worst(kept, 1, 2.0, image, lambda: pytest.fail("drawn for nothing")) == kept


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 8), (8, 8)), ((512, 256), (64, 128))], ids=["small", "large"]
)
def test_thumbnail_is_a_png_of_at_most_128_pixels(shape, size):
    pixels = np.full((*shape, 3), 40, np.uint8)
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail_png(pixels))))
    assert (image.format, image.size) == ("PNG", size)
    assert (np.asarray(image) == 40).all()
