"""CIFAR in each form that its authors publish, made small here."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
PLANES = PIXELS.transpose(0, 3, 1, 2).reshape(3, -1)
NAMES = ("apple", "bear", "clock")
CLASSES = [2, 0, 1]


def _old_pickle(content):
    """As Python 2 wrote it: texts are bytes there."""
    return pickle.dumps(content, protocol=2)


def _records(*columns):
    return np.concatenate([*(np.array(c, np.uint8)[:, None] for c in columns), PLANES], 1).tobytes()


FORMS = {
    "10 python": ("cifar-10-batches-py", {
        "test_batch": _old_pickle({b"labels": CLASSES, b"data": PLANES, b"batch_label": b"test"}),
        "batches.meta": _old_pickle({b"label_names": [n.encode() for n in NAMES]}),
    }),
    "100 python": ("cifar-100-python", {
        "test": _old_pickle({b"fine_labels": CLASSES, b"coarse_labels": [0] * 3, b"data": PLANES}),
        "meta": _old_pickle({b"fine_label_names": [n.encode() for n in NAMES]}),
    }),
    "10 binary": ("cifar-10-batches-bin", {
        "test_batch.bin": _records(CLASSES),
        "batches.meta.txt": "\n".join([*NAMES, ""]).encode(),
    }),
    "100 binary": ("cifar-100-binary", {
        "test.bin": _records([9, 9, 9], CLASSES),
        "fine_label_names.txt": "\n".join(NAMES).encode(),
    }),
}  # fmt: skip


def _unpacked(home, form, **changes):
    folder, files = FORMS[form]
    (home / folder).mkdir()
    for name, data in {**files, **changes}.items():
        (home / folder / name).write_bytes(data)
    return home / folder


def _archive(home, form):
    folder, files = FORMS[form]
    path = home / f"{folder}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _check(source, names=NAMES, classes=CLASSES):
    assert source.labels == names
    assert [item.label for item in source] == classes
    assert all((item.pixels == PIXELS[i]).all() for i, item in enumerate(source))


@pytest.mark.parametrize("form", FORMS)
def test_reads_it_unpacked_and_in_its_archive(form, tmp_path):
    _check(open_image_source(_archive(tmp_path, form)))
    folder = _unpacked(tmp_path, form)
    _check(open_image_source(folder))
    _check(open_image_source(tmp_path), NAMES)


def test_classes_are_the_models_by_name(tmp_path):
    folder = _unpacked(tmp_path, "10 binary")
    _check(
        open_image_source(folder, ("bear", "clock", "apple")), ("bear", "clock", "apple"), [1, 2, 0]
    )
    _check(open_image_source(folder, ("one", "two", "three")), ("one", "two", "three"))
    with pytest.raises(ImageError, match=r"class 'apple' is none of the model's 2 labels"):
        open_image_source(folder, ("bear", "clock"))
    with pytest.raises(ImageError, match=r"class 'apple' is none .* Export the model with CIFAR's"):
        open_image_source(folder, ("bear", "clock", "house"))
    without = open_image_source(folder, num_classes=5)
    assert not without.has_labels
    assert "3 (" in without.notes[0]


class Evil:
    def __reduce__(self):
        return os.system, ("echo pwned > pwned",)


DAMAGED = {
    "runs code": ("10 python", "test_batch", pickle.dumps(Evil()), "a pickle that wants"),
    "truncated": ("10 binary", "test_batch.bin", b"123", "no whole number of records"),
    "unknown class": ("10 binary", "batches.meta.txt", b"apple\nbear", "a class is none of the 2"),
    "no pickle": ("100 python", "test", b"hello", "is damaged"),
    "no images": ("100 python", "test", _old_pickle({b"fine_labels": [1]}), "is damaged: 'data'"),
}


@pytest.mark.parametrize(("form", "name", "data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_refuses_what_is_damaged(form, name, data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = _unpacked(tmp_path, form, **{name: data})
    with pytest.raises(ImageError, match=message) as caught:
        open_image_source(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


def test_refuses_a_damaged_archive(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(ImageError, match=r"cifar-10-binary\.tar\.gz is damaged"):
        open_image_source(path)
