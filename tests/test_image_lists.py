from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_vit.errors import ImageError, SpecError
from edge_vit.images import open_image_source

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path


def pixels_of(source) -> list[np.ndarray]:
    return [item.pixels for item in source]


def test_a_list_gives_its_images_in_its_order(folder):
    absolute = folder / "photos" / "1.png"
    lines = ["# the good ones", "photos/4.png", "", f"  {absolute}  ", "photos/0.png"]
    (folder / "list.txt").write_text("\n".join(lines))
    source = open_image_source(folder / "list.txt")
    np.testing.assert_array_equal(pixels_of(source), PIXELS[[4, 1, 0]])
    assert len(source) == 3
    assert not source.has_labels


def test_a_limit_is_spread_over_a_list(folder):
    (folder / "list.txt").write_text("\n".join(f"photos/{i}.png" for i in range(4)))
    source = open_image_source(folder / "list.txt", limit=2)
    np.testing.assert_array_equal(pixels_of(source), PIXELS[[0, 2]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"photos/0.png\nphotos/9.png\n", "line 2: .*9.png does not exist"),
        (b"# nothing\n\n", "names no image, expected one path a line"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
    ids=["missing image", "empty", "binary"],
)
def test_refuses_a_bad_list_in_one_line(folder, content, message):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(folder / "list.txt")
    assert "\n" not in str(error.value)


def test_an_npy_array_stays_on_the_disk(tmp_path):
    np.save(tmp_path / "images.npy", PIXELS)
    source = open_image_source(tmp_path / "images.npy")
    assert isinstance(source._images, np.memmap)
    np.testing.assert_array_equal(pixels_of(source), PIXELS)
    assert not source.has_labels


@pytest.mark.parametrize("labels", [None, [3, 1, 4, 1, 0]], ids=["bare", "labelled"])
def test_an_npz_file_may_hold_labels(tmp_path, labels):
    extra = {} if labels is None else {"labels": np.array(labels)}
    np.savez(tmp_path / "images.npz", images=PIXELS, **extra)
    source = open_image_source(tmp_path / "images.npz", labels=tuple("abcde"))
    np.testing.assert_array_equal(pixels_of(source), PIXELS)
    assert source.has_labels is (labels is not None)
    assert [item.label for item in source] == (labels or [None] * 5)


BAD = {
    "float": ({"images": PIXELS.astype(np.float32)}, r"got float32 \(5, 6, 7, 3\), expected uint8"),
    "NaN": ({"images": np.full((1, 2, 2, 3), np.nan)}, "got float64"),
    "channels first": ({"images": PIXELS.transpose(0, 3, 1, 2)}, r"got uint8 \(5, 3, 6, 7\)"),
    "no images": ({"images": PIXELS[:0]}, r"got uint8 \(0, 6, 7, 3\)"),
    "another name": ({"pictures": PIXELS}, "holds no 'images'. Save it with: numpy.savez"),
    "too few labels": ({"images": PIXELS, "labels": np.arange(4)}, r"labels are int64 \(4,\)"),
    "fractions": ({"images": PIXELS, "labels": np.ones(5)}, "labels are float64"),
    "objects": ({"images": np.array([{}], object)}, "cannot be read"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_refuses_a_bad_array_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "images.npz", **arrays)
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(tmp_path / "images.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
def test_refuses_a_damaged_array(tmp_path, name):
    path = tmp_path / name
    (np.save if name.endswith("npy") else np.savez)(path, PIXELS)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match="cannot be read"):
        open_image_source(path)


def test_refuses_a_limit_of_nothing(tmp_path):
    np.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(SpecError, match="limit: got 0"):
        open_image_source(tmp_path / "images.npy", limit=0)


TABLES = {
    "indices": ("photos/2.png,1\nphotos/0.png,0\n", [1, 0]),
    "names": ("path,label\nphotos/2.png,dog\n\nphotos/0.png, cat\n", [1, 0]),
    "quoted": ('"photos/2.png","dog"\nphotos/0.png,0\n', [1, 0]),
    "without labels": ("photos/2.png\nphotos/0.png\n", None),
    "without labels, with a head": ("path\nphotos/2.png\nphotos/0.png\n", None),
    "empty labels": ("path,label\nphotos/2.png,\nphotos/0.png,\n", None),
}


@pytest.mark.parametrize(("content", "classes"), TABLES.values(), ids=TABLES)
def test_a_table_gives_images_and_their_classes(folder, content, classes):
    (folder / "val.csv").write_text(content)
    source = open_image_source(folder / "val.csv", ("cat", "dog"))
    np.testing.assert_array_equal(pixels_of(source), PIXELS[[2, 0]])
    assert source.has_labels == (classes is not None)
    assert [item.label for item in source] == (classes or [None, None])
    assert source.labels == (("cat", "dog") if classes else ())


def test_a_class_that_is_called_like_a_number_is_meant_by_its_name(folder):
    (folder / "val.csv").write_text("photos/2.png,7\n")
    assert [item.label for item in open_image_source(folder / "val.csv", ("7", "0"))] == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"photos/2.png,cow\n", "line 1: label 'cow', expected one of the model's 2 labels or a"),
        (b"photos/9.png,1\n", "line 1: .*9.png does not exist"),
        (b"photos/2.png,1\nphotos/0.png\n", "1 of 2 images have a label, expected all or none"),
        (b"photos/2.png,1,2\n", "line 1: got 3 cells, expected path,label or path"),
        (b"path,label\n", "names no image"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
    ids=["class", "missing image", "half", "cells", "empty", "binary"],
)
def test_refuses_a_bad_table_in_one_line(folder, content, message):
    (folder / "val.csv").write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(folder / "val.csv", ("cat", "dog"))
    assert "\n" not in str(error.value)
