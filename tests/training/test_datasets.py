"""Data sets: real digits, CIFAR-100 and folders, split and brought to size."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits as load_original_digits

from edge_vit.errors import ArtifactError, ImageError, ShapeError, SpecError
from edge_vit.training import datasets
from edge_vit.training.datasets import (
    Dataset,
    load_digits,
    open_dataset,
    preprocess_for,
    write_class_folders,
)


def write_images(folder, count, color, size=(12, 8)):
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, color).save(folder / f"{index}.png")


def test_digits_are_all_there_once(digits):
    assert digits.train_images.shape == (1197, 32, 32, 3)
    assert digits.test_images.shape == (600, 32, 32, 3)
    assert digits.train_images.dtype == np.uint8
    assert digits.labels == tuple("0123456789")
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    originals = load_original_digits()
    num_distinct = len(np.unique(originals.data, axis=0))
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == num_distinct
    assert np.bincount(labels).tolist() == np.bincount(originals.target).tolist()


def test_digits_are_the_originals_enlarged_by_pillow(digits):
    originals = load_original_digits()
    gray = Image.fromarray(np.rint(originals.images[0] * 255 / 16).astype(np.uint8))
    enlarged = np.asarray(gray.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    matches = (images == enlarged).all(axis=(1, 2, 3))
    assert matches.sum() == 1
    assert labels[matches] == originals.target[0]


def test_every_class_has_a_third_held_out(digits):
    held_out = np.bincount(digits.test_labels)
    share = held_out / (held_out + np.bincount(digits.train_labels))
    assert share == pytest.approx(600 / 1797, abs=0.01)


def test_the_seed_decides_the_split(digits):
    again, other = load_digits(seed=0), load_digits(seed=1)
    assert np.array_equal(again.test_images, digits.test_images)
    assert not np.array_equal(other.test_images, digits.test_images)


def test_digits_come_at_other_sizes():
    assert open_dataset("digits", 16).test_images.shape == (600, 16, 16, 3)


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_train_and_held_out_folders_are_the_split(tmp_path, held_out, recorded_progress):
    write_images(tmp_path / "train" / "cat", 3, "red")
    write_images(tmp_path / "train" / "dog", 2, "blue")
    write_images(tmp_path / held_out / "dog", 4, "blue")
    dataset = open_dataset(tmp_path, 8, progress=recorded_progress)
    assert dataset.labels == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.test_labels.tolist() == [1] * 4
    assert dataset.train_images[0, 0, 0].tolist() == [255, 0, 0]
    assert dataset.preprocess == preprocess_for(8)
    assert recorded_progress.steps == {
        f"reading {tmp_path / 'train'}": (5, 5),
        f"reading {tmp_path / held_out}": (4, 4),
    }


def test_a_fifth_of_class_folders_is_held_out(tmp_path):
    write_images(tmp_path / "train", 10, "red")  # a class may be called like a part
    write_images(tmp_path / "tram", 20, "blue")
    dataset = open_dataset(tmp_path, 8, seed=3)
    assert dataset.labels == ("train", "tram")
    assert np.bincount(dataset.test_labels).tolist() == [2, 4]
    assert np.bincount(dataset.train_labels).tolist() == [8, 16]


def test_written_class_folders_read_back_pixel_by_pixel(tmp_path, digits):
    images, labels = digits.test_images[:30], digits.test_labels[:30]
    write_class_folders(images[:15], labels[:15], digits.labels, tmp_path / "d" / "train")
    write_class_folders(images[15:], labels[15:], digits.labels, tmp_path / "d" / "val")
    name = digits.labels[labels[3]]
    written = np.asarray(Image.open(tmp_path / "d" / "train" / name / "0003.png"))
    assert np.array_equal(written, images[3])
    dataset = open_dataset(tmp_path / "d", 32)
    read = sorted(image.tobytes() for image in dataset.train_images)
    assert read == sorted(image.tobytes() for image in images[:15])


@pytest.mark.parametrize(
    "class_name", ["a/b", "..", ".hidden", ""], ids=["slash", "parent", "hidden", "empty"]
)
def test_refuses_class_names_that_are_no_folder_names(tmp_path, class_name):
    with pytest.raises(
        SpecError, match=f"class name '{class_name}' cannot be the name of a folder"
    ):
        write_class_folders(np.zeros((1, 4, 4, 3), np.uint8), [0], [class_name], tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_refuses_to_mix_images_with_those_of_another_split(tmp_path):
    write_images(tmp_path / "cat", 1, "red")
    with pytest.raises(ArtifactError, match="is not empty, expected a new folder"):
        write_class_folders(np.zeros((1, 4, 4, 3), np.uint8), [0], ["cat"], tmp_path)


def test_reads_cifar100_wherever_it_lies(tmp_path, monkeypatch):
    root = tmp_path / "edge-vit" / "cifar100"
    root.mkdir(parents=True)
    (root / "train.bin").write_bytes(bytes([0, 1]) + bytes([200]) * 3072)
    (root / "test.bin").write_bytes(bytes(3074) * 2)
    (root / "fine_label_names.txt").write_bytes(b"apple\nbear\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, size in (("cifar100", 32), (root, 16)):
        dataset = open_dataset(name, size)
        assert (dataset.name, dataset.labels) == ("cifar2", ("apple", "bear"))
        assert dataset.train_images.shape == (1, size, size, 3)
        assert dataset.train_images.min() == 200
        assert dataset.test_labels.tolist() == [0, 0]


def test_downloads_cifar100_when_first_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        datasets, "CIFAR100", datasets.CIFAR100.__class__("http://x.invalid/c", 1, "")
    )
    with pytest.raises(ArtifactError, match=r"cannot download http://x\.invalid/c: .* Put c"):
        open_dataset("cifar100", 32)


def mixed_parts(root):
    write_images(root / "train" / "cat", 1, "red")
    write_images(root / "val" / "dog", 1, "red")


def damaged(root):
    write_images(root / "cat", 1, "red")
    (root / "cat" / "bad.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda root: None, ArtifactError, "no such folder, expected digits, cifar100 or"),
        (lambda root: root.mkdir(), ImageError, "holds no images"),
        (lambda root: write_images(root, 1, "red"), SpecError, "expected folders of images, one"),
        (mixed_parts, SpecError, "has class 'dog', which the training images have not"),
        (damaged, ImageError, r"bad\.png is not a JPEG"),
    ],
    ids=["missing", "empty", "flat", "other-classes", "damaged"],
)
def test_refuses_a_folder_that_is_no_data_set(tmp_path, write, error, message):
    write(tmp_path / "data")
    with pytest.raises(error, match=message):
        open_dataset(tmp_path / "data", 8)


def test_says_how_much_memory_a_folder_would_need(tmp_path, monkeypatch):
    write_images(tmp_path / "cat", 2, "red")
    monkeypatch.setattr(datasets, "MAX_DATASET_BYTES", 1)
    with pytest.raises(SpecError, match=r"2 images of 512×512 need 0\.0 GiB of memory"):
        open_dataset(tmp_path, 512)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_images": np.zeros((2, 8, 8, 3), np.float32)}, ShapeError, "got float32"),
        ({"test_images": np.zeros((2, 9, 8, 3), np.uint8)}, ShapeError, "expected uint8"),
        ({"train_labels": np.array([0, 2])}, SpecError, "train_labels of d: expected 0 to 1"),
        (
            {"test_images": np.zeros((0, 8, 8, 3), np.uint8), "test_labels": np.zeros(0, int)},
            SpecError,
            "d has no test images",
        ),
    ],
    ids=["dtype", "shape", "label", "empty"],
)
def test_refuses_arrays_that_do_not_fit(changes, error, message):
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1])
    values = {
        "train_images": images,
        "train_labels": labels,
        "test_images": images,
        "test_labels": labels,
        **changes,
    }
    with pytest.raises(error, match=message):
        Dataset("d", ("a", "b"), preprocess_for(8), **values)
