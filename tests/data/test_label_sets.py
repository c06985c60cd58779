"""Tables with any number of labels for each image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError
from edge_vit.tasks.label_sets import LabelSet

LABELS = ("cat", "red car", "dog")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 7, 3), np.uint8)


@pytest.fixture
def table(tmp_path):
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path / "truth.csv"


def read(path, text, labels=LABELS, **wanted):
    path.write_text(text)
    source = open_image_source(path, labels, has_truth=False, has_label_sets=True, **wanted)
    return [item.truth for item in source], source


def sets(*indices):
    return [LabelSet(frozenset(each)) for each in indices]


@pytest.mark.parametrize(
    "text",
    [
        "path,labels\n0.png,cat;dog\n1.png,\n2.png,red_car\n",
        "image,tags\n0.png,cat|dog\n1.png\n2.png,Red-Car\n",
        '0.png,"dog, cat"\n1.png,\n2.png,red car\n',
        "0.png,cat,dog\n1.png\n2.png,red car\n",
        "path,labels\n0.png,0 2\n1.png,\n2.png,1\n",
        "path;cat;red car;dog\n0.png;1;0;1\n1.png;0;0;0\n2.png;0;1;0\n",
        "dog,file,cat,red_car,split\n1.0,0.png,true,0,a\n0,1.png,no,0,a\n0,2.png,0,1,b\n",
    ],
    ids=["semicolons", "bars", "quoted", "cells", "indices", "flags", "flags in any order"],
)
def test_reads_the_labels_of_each_image(table, text):
    truth, _ = read(table, text)
    assert truth == sets({0, 2}, (), {1})


def test_what_is_not_known_is_left_out(table):
    text = "path,cat,dog\n0.png,1,-1\n1.png,0,\n2.png,0,1\n"
    truth, source = read(table, text)
    assert truth == [
        LabelSet(frozenset({0}), frozenset({1, 2})),
        LabelSet(frozenset(), frozenset({1, 2})),
        LabelSet(frozenset({2}), frozenset({1})),
    ]
    assert source.notes[-1].endswith("has no column for red car: of those nothing is known.")


def test_a_list_of_paths_has_no_truth(table):
    truth, source = read(table.with_suffix(".txt"), "0.png\n2.png\n")
    assert truth == [None, None]
    np.testing.assert_array_equal([item.pixels for item in source], PIXELS[[0, 2]])


def test_a_model_without_names_has_indices(table):
    truth, _ = read(table, "0.png,0;2\n1.png,1\n", labels=(), num_classes=3)
    assert truth == sets({0, 2}, {1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\n0.png,cat;dgo\n", r"line 2: label 'dgo'.*'dog'"),
        ("path,cat,dog\n0.png,1,maybe\n", r"line 2: got 'maybe' for dog, expected 1 where"),
        ("path,size,city\n0.png,3,x\n", r"columns size, city are no labels of the model"),
        ("0.png,7\n", r"line 1: label '7'"),
    ],
)
def test_refuses_what_is_no_label_in_one_line(table, text, message):
    with pytest.raises(ImageError, match=message) as error:
        read(table, text)
    assert "\n" not in str(error.value)


def test_an_array_has_a_column_for_each_label(tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=labels)
    source = open_image_source(tmp_path / "a.npz", LABELS, has_label_sets=True)
    assert [item.truth for item in source] == sets({0, 2}, (), {1})
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=labels[:, :2])
    with pytest.raises(ImageError, match=r"labels are int64 \(3, 2\), expected 0 or 1 for each"):
        open_image_source(tmp_path / "a.npz", LABELS, has_label_sets=True)
