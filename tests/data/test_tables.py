"""Lists and tables of images."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError

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
        (b"https://a.org/b.JPG\nphotos/0.png\n", "line 1: .*b.JPG does not exist"),
        (b"# nothing\n\n", "names no image, expected a path a line"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
    ids=["missing image", "missing first image", "empty", "binary"],
)
def test_refuses_a_bad_list_in_one_line(folder, content, message):
    (folder / "list.txt").write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(folder / "list.txt")
    assert "\n" not in str(error.value)


TABLES = {
    "indices": ("photos/2.png,1\nphotos/0.png,0\n", [1, 0]),
    "names": ("path,label\nphotos/2.png,dog\n\nphotos/0.png, cat\n", [1, 0]),
    "quoted": ('"photos/2.png","dog"\nphotos/0.png,0\n', [1, 0]),
    "without labels": ("photos/2.png\nphotos/0.png\n", None),
    "without labels, with a head": ("path\nphotos/2.png\nphotos/0.png\n", None),
    "byte order mark": ("\ufeffpath,label\nphotos/2.png,1\nphotos/0.png,0\n", [1, 0]),
    "semicolons": ("Image;Class\nphotos/2.png;dog\nphotos/0.png;cat\n", [1, 0]),
    "tabs": ("photos/2.png\tdog\nphotos/0.png\tcat\n", [1, 0]),
    "backslashes": ("photos\\2.png,dog\r\nphotos\\0.png,cat\r\n", [1, 0]),
    "other case": ("path,label\nphotos/2.png,Dog\nphotos/0.png, CAT\n", [1, 0]),
    "class first": ("class,file name\ndog,photos/2.png\ncat,photos/0.png\n", [1, 0]),
    "class first, no head": ("dog,photos/2.png\ncat,photos/0.png\n", [1, 0]),
    "more columns": (
        ",id,filepath,width,category\n0,7,photos/2.png,7,dog\n1,8,photos/0.png,7,cat\n",
        [1, 0],
    ),
    "a comment first": ("# by a tool\npath,label\nphotos/2.png,1\nphotos/0.png,0\n", [1, 0]),
    "bars": ("path|label\nphotos/2.png|dog\nphotos/0.png|cat\n", [1, 0]),
    "bars, no head": ("photos/2.png|1\nphotos/0.png|0\n", [1, 0]),
    "index and name": (
        "path,class_id,class_name\nphotos/2.png,1,dog\nphotos/0.png,0,cat\n",
        [1, 0],
    ),
    "index and a name of another language": (
        "file,label,category\nphotos/2.png,1,Hund\nphotos/0.png,0,Katze\n",
        [1, 0],
    ),
    "a name before the index of another data set": (
        "file,label,class\nphotos/2.png,0,dog\nphotos/0.png,1,cat\n",
        [1, 0],
    ),
    "unknown head": ("bild,klasse\nphotos/2.png,dog\nphotos/0.png,cat\n", [1, 0]),
    "fractions of spreadsheets": ("path,label\nphotos/2.png,1.0\nphotos/0.png,0.0\n", [1, 0]),
    "Excel's own line": ("sep=;\npath;label\nphotos/2.png;1\nphotos/0.png;0\n", [1, 0]),
    "filled up by a spreadsheet": ("photos/2.png,1,,\nphotos/0.png,0,,\n,,,\n", [1, 0]),
    "empty labels": ("path,label\nphotos/2.png,\nphotos/0.png,\n", None),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize(("content", "classes"), TABLES.values(), ids=TABLES)
def test_a_table_gives_images_and_their_classes(folder, content, classes, suffix, encoding):
    path = folder / f"val{suffix}"
    path.write_bytes(content.encode(encoding))
    source = open_image_source(path, ("cat", "dog"))
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
        (
            b"photos/2.png,cow\n",
            "line 1: label 'cow' is none of the model's 2 labels .* class index",
        ),
        (b"photos/2.png,dgo\nphotos/0.png,cat\n", r"line 1: label 'dgo' is .* Write the label"),
        (b"photos/2.png,dogs\nphotos/0.png,cat\n", r"label 'dogs' is none .* Is it 'dog'\?"),
        (b"photos/2.png,2\n", "line 1: label '2': the 2 classes are 0 to 1"),
        (
            b"path,width\nphotos/2.png,7\n",
            "its columns width do not tell .* one column called label",
        ),
        (b"path,cat,dog\nphotos/2.png,0,1\n", "its columns cat, dog do not tell the class of each"),
        (b"photos/2.png,photos/0.png\n", "label 'photos/0.png' is none of the model's 2 labels"),
        (b"path\nhttps://a.org/b.png\n", "line 2: .* does not exist or is no file"),
        (b"path,label,name\nphotos/2.png,x,cow\n", "line 2: label 'x' is none of the"),
        (b"x1,y1\n1,2\n", "does not exist"),
        (b"path,label\nC:\\photos\\9.png,1\n", "line 2: .*9.png does not exist"),
        (b"photos/9.png,1\n", "line 1: .*9.png does not exist"),
        (b"photos/9.png,1\nphotos/2.png,0\n", "line 1: .*9.png does not exist"),
        (b"photos/2.png,1\nphotos/0.png\n", "1 of 2 images have a label, expected all or none"),
        (b"photos/2.png,1,2\n", "line 1: got 3 cells, expected at most 2. .* path,label"),
        (b"1,dog,photos/2.png\n", "line 1: got 3 cells, expected at most 2. .* path,label"),
        (b"path\nphotos/2.png,1\n", "line 2: got 2 cells, expected at most 1"),
        (b"path,label\n", "names no image"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"photos/2.png," + b"1" * 200_000, "a line is too long"),
    ],
    ids=[
        *("class", "near class", "plural", "index", "no classes", "one-hot", "two images"),
        *("address", "no class", "numbers", "Windows", "missing image", "missing first"),
        *("half", "cells"),
        *("path last", "no head for it"),
        *("empty", "binary", "long"),
    ],
)
def test_refuses_a_bad_table_in_one_line(folder, content, message):
    (folder / "val.csv").write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(folder / "val.csv", ("cat", "dog"))
    assert "\n" not in str(error.value)


def test_classes_are_not_read_where_none_are_wanted(folder):
    (folder / "val.csv").write_text("path,label,class\nphotos/2.png,cow,7\nphotos/0.png,cat,8\n")
    source = open_image_source(folder / "val.csv", has_truth=False)
    np.testing.assert_array_equal(pixels_of(source), PIXELS[[2, 0]])
    assert not source.has_labels


def test_class_names_need_a_model_with_names(folder):
    (folder / "val.csv").write_text("photos/2.png,dog\nphotos/0.png,cat\n")
    with pytest.raises(ImageError, match=r"the model has no class names.* --labels FILE"):
        open_image_source(folder / "val.csv", num_classes=2)


def test_a_table_says_which_columns_it_leaves_out_and_what_it_matched(folder):
    (folder / "val.csv").write_text("path,width,label\nphotos/2.png,7,Dog\nphotos/0.png,7,cat\n")
    source = open_image_source(folder / "val.csv", ("cat", "dog"))
    assert "columns width are not used" in source.notes[0]
    assert "Dog = 1 'dog'" in source.notes[1]


NAMES = {
    "composed elsewhere": ("cafe\u0301.png", "caf\u00e9.png".encode()),
    "no UTF-8 at all": (os.fsdecode(b"caf\xe9.png"), b"caf\xe9.png"),
    "a line separator": ("a\u2028b.png", "a\u2028b.png".encode()),
    "a comma, in a list": ("a,b c.png", b"a,b c.png"),
    "a hash": ("#1.png", b"#1.png"),
}


@pytest.mark.parametrize(("name", "written"), NAMES.values(), ids=NAMES)
def test_a_list_finds_files_with_odd_names(folder, name, written):
    (folder / "photos" / "3.png").rename(folder / name)
    (folder / "list.txt").write_bytes(b"# these\n" + written + b"\n")
    source = open_image_source(folder / "list.txt")
    np.testing.assert_array_equal(pixels_of(source), PIXELS[[3]])
    next(iter(source)).name.encode()


def test_a_list_that_starts_elsewhere_is_told_where(folder, monkeypatch):
    (folder / "lists").mkdir()
    (folder / "lists" / "list.txt").write_text("photos/3.png\n")
    monkeypatch.chdir(folder)
    with pytest.raises(ImageError, match=r"this one is found from .*: move the file there"):
        open_image_source(folder / "lists" / "list.txt")
