"""Images from arrays and from single files, and what stands for a source of them."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data
from sklearn.datasets import load_sample_image

from edge_vit.data.images import ArraySource, FileSource, open_image_source
from edge_vit.errors import ShapeError, SpecError
from tests.data.test_folder import make_tree, names_and_labels

CHINA = load_sample_image("china.jpg")[100:220, 200:380]  # (120, 180, 3)
ASTRONAUT = data.astronaut()[:200, 100:250]  # (200, 150, 3)


def test_array_source_hands_out_images_and_labels():
    source = ArraySource([CHINA, ASTRONAUT], np.array([1, 0]), ["woman", "temple"])
    items = list(source)
    assert np.array_equal(items[1].pixels, ASTRONAUT)
    assert names_and_labels(source) == [("00000", 1), ("00001", 0)]
    assert all(type(item.label) is int for item in items)
    assert (len(source), source.labels, source.has_labels) == (2, ("woman", "temple"), True)


def test_array_source_without_labels():
    source = ArraySource(np.stack([CHINA, CHINA[::-1]]))
    assert [item.label for item in source] == [None, None]
    assert not source.has_labels


def test_array_source_refuses_wrong_images_and_labels():
    with pytest.raises(ShapeError, match=r"images\[1\]: got float64"):
        ArraySource([CHINA, CHINA / 255])
    with pytest.raises(ShapeError, match="image_labels: got 1, expected 2"):
        ArraySource([CHINA, CHINA], [0])


def test_file_source_keeps_the_order_and_the_names_as_given(tmp_path):
    make_tree(tmp_path, ["b.png", "a.png"])
    paths = [str(tmp_path / "b.png"), str(tmp_path / "a.png")]
    assert names_and_labels(FileSource(paths)) == [(path, None) for path in paths]


def test_open_takes_a_folder_a_file_or_a_source(tmp_path):
    make_tree(tmp_path, ["cat/a.png"])
    folder = open_image_source(str(tmp_path), labels=["dog", "cat"])
    assert names_and_labels(folder) == [("cat/a.png", 1)]
    file = open_image_source(tmp_path / "cat" / "a.png")
    assert names_and_labels(file) == [(str(tmp_path / "cat" / "a.png"), None)]
    assert open_image_source(folder) is folder


def test_open_refuses_anything_else():
    with pytest.raises(SpecError, match=r"images: got list, expected the path of a folder"):
        open_image_source([CHINA])


@pytest.mark.parametrize("limit", [0, -3])
def test_refuses_limit_below_one(tmp_path, limit):
    make_tree(tmp_path, ["a.png"])
    for source in (tmp_path, tmp_path / "a.png", ArraySource([CHINA])):
        with pytest.raises(SpecError, match=f"limit: got {limit}, expected at least 1"):
            open_image_source(source, limit=limit)
