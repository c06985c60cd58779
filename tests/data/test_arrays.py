"""Images in NumPy's files."""

from __future__ import annotations

import numpy as np
import pytest

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError, SpecError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)


def pixels_of(source) -> list[np.ndarray]:
    return [item.pixels for item in source]


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


def test_labels_have_to_be_classes_of_the_model(tmp_path):
    for labels, is_fine in (([3, 1, 4, 1, 0], True), ([3, 1, 5, 1, 0], False), ([-1] * 5, False)):
        np.savez(tmp_path / "images.npz", images=PIXELS, labels=np.array(labels))
        assert open_image_source(tmp_path / "images.npz", has_truth=False).has_labels
        if is_fine:
            assert open_image_source(tmp_path / "images.npz", num_classes=5).has_labels
        else:
            with pytest.raises(ImageError, match="expected class indices of the model, 0 to 4"):
                open_image_source(tmp_path / "images.npz", num_classes=5)


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
