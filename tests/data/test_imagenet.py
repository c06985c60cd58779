"""ImageNet's layouts: class folders called by synset, and flat folders beside a list."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError

SYNSETS = ("n01440764", "n01443537", "n02119789", "n03888257")
LABELS = ("tench", "goldfish", "kit fox", "parachute")


def _images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2), (index, 0, 0)).save(path, "JPEG")
    return folder


def _write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _labels(folder, labels=LABELS):
    source = open_image_source(folder, labels)
    assert source.has_labels
    return {item.name: item.label for item in source}


VAL = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]
TRUTH = {VAL[0]: 3, VAL[1]: 0, VAL[2]: 2}


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt"])
@pytest.mark.parametrize("above", ["val", ".", ".."])
def test_synset_folders_are_classes_by_the_mapping(tmp_path, name, above):
    val = _images(tmp_path / "data" / "val", ["n03888257/a.JPEG", "n01443537/b.JPEG"])
    words = ("" if name == "synsets.txt" else " some, words").join([*SYNSETS, ""]).split("n")[1:]
    _write(tmp_path / "data" / above / name, *(f"n{word}" for word in words))
    assert _labels(val) == {"n01443537/b.JPEG": 1, "n03888257/a.JPEG": 3}


def test_synset_folders_without_a_mapping_count_as_any_other(tmp_path):
    val = _images(tmp_path / "val", [f"{synset}/a.JPEG" for synset in SYNSETS])
    assert list(_labels(val).values()) == [0, 1, 2, 3]
    few = _images(tmp_path / "few", ["n03888257/a.JPEG"])
    with pytest.raises(ImageError, match=r"none of the model's 4 .*Put LOC_synset_mapping.txt"):
        open_image_source(few, LABELS)


def test_folders_that_are_labels_need_no_mapping(tmp_path):
    val = _images(tmp_path / "val", ["n03888257/a.JPEG"])
    _write(tmp_path / "synsets.txt", *SYNSETS)
    assert _labels(val, ("n03888257", "n01440764")) == {"n03888257/a.JPEG": 0}


def _kaggle(home, truth=TRUTH, mapping=SYNSETS):
    rows = (f"{name.removesuffix('.JPEG')},{SYNSETS[place]} 1 2 3 4 {SYNSETS[place]} 5 6 7 8"
            for name, place in truth.items())  # fmt: skip
    _write(home / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    _write(home / "LOC_synset_mapping.txt", *(f"{s} words" for s in mapping))


def test_a_flat_folder_has_its_classes_from_the_list(tmp_path):
    val = _images(tmp_path / "imagenet" / "val", VAL)
    _kaggle(tmp_path / "imagenet")
    assert _labels(val) == TRUTH
    assert open_image_source(val, LABELS).notes == (
        f"Labels are taken from {tmp_path / 'imagenet' / 'LOC_val_solution.csv'}.",
    )
    (val / VAL[0]).unlink()
    assert _labels(val) == {name: TRUTH[name] for name in VAL[1:]}
    assert len(open_image_source(val, LABELS, limit=1)) == 1


def test_a_list_of_other_images_is_left_alone(tmp_path):
    photos = _images(tmp_path / "photos", ["a.jpg", "b.jpg"])
    _kaggle(tmp_path)
    assert not open_image_source(photos, LABELS).has_labels
    assert open_image_source(photos, LABELS).notes == ()


DAMAGED = {
    "other classes": (
        lambda home: _kaggle(home, mapping=("n00000001", *SYNSETS)),
        r"it has class 4, and the model 4 classes, from 0 on",
    ),
    "no text": (
        lambda home: (
            _kaggle(home),
            (home / "LOC_val_solution.csv").write_bytes(bytes(range(256))),
        ),
        r"LOC_val_solution\.csv cannot be read as text",
    ),
    "image unknown": (
        lambda home: _kaggle(home, {VAL[0]: 3}),
        rf"it names 1 of the 3 images, and {VAL[1]} is not among them",
    ),
    "no synset in the list": (
        lambda home: (
            _kaggle(home),
            _write(home / "LOC_val_solution.csv", f"{VAL[0][:-5]},dog 1 2 3 4"),
        ),
        r"LOC_val_solution\.csv, line 1: expected an image and its synset",
    ),
    "no mapping": (
        lambda home: _write(home / "LOC_val_solution.csv", f"{VAL[0][:-5]},n01440764 1 2 3 4"),
        r"LOC_synset_mapping\.txt or synset_words\.txt or synsets\.txt with their order is",
    ),
    "no synset": (
        lambda home: (
            _write(home / "LOC_val_solution.csv", f"{VAL[0][:-5]},n01440764 1 2 3 4"),
            _write(home / "synsets.txt", "tench"),
        ),
        r"synsets\.txt, line 1: expected a synset",
    ),
}


@pytest.mark.parametrize(("write", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_list_that_does_not_fit_is_left_out_and_noted(tmp_path, write, message):
    val = _images(tmp_path / "imagenet" / "val", VAL)
    write(tmp_path / "imagenet")
    source = open_image_source(val, LABELS)
    assert not source.has_labels
    (note,) = source.notes
    assert note.startswith("No labels are taken from ")
    assert re.search(message, note)
    assert "\n" not in note


def test_a_list_of_another_tool_above_the_folder_is_left_alone(tmp_path):
    _write(tmp_path / "val.txt", "./images/1.jpg", "./images/2.jpg")
    source = open_image_source(_images(tmp_path / "val", VAL), LABELS)
    assert not source.has_labels
    assert source.notes == ()


def test_refuses_a_synset_that_the_mapping_does_not_know(tmp_path):
    val = _images(tmp_path / "val", ["n09999999/a.JPEG"])
    _write(tmp_path / "synsets.txt", *SYNSETS)
    with pytest.raises(ImageError, match=r"n09999999 is none of the 4 synsets in .*synsets\.txt"):
        open_image_source(val, LABELS)
