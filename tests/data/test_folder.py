"""What a folder of images means, and the other sources of images."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from edge_vit.data.class_names import in_order
from edge_vit.data.images import FolderSource, open_image_source
from edge_vit.errors import ImageError

CHINA = load_sample_image("china.jpg")[100:220, 200:380]  # (120, 180, 3)
ASTRONAUT = data.astronaut()[:200, 100:250]  # (200, 150, 3)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def make_tree(root: Path, names: list[str]) -> Path:
    """Small real images at `names`, each with pixels of its own."""
    for index, name in enumerate(names):
        top = 5 * index % 100
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(CHINA[top : top + 12, index % 150 :][:, :16]).save(path)
    return root


def names_and_labels(source) -> list[tuple[str, int | None]]:
    return [(item.name, item.label) for item in source]


def test_flat_folder_is_sorted_and_has_no_labels(tmp_path):
    make_tree(tmp_path, ["b.png", "a.JPG", "c.Jpeg", "d.webp", "e.bmp"])
    (tmp_path / "notes.txt").write_text("not an image")
    source = FolderSource(tmp_path, labels=["cat", "dog"])
    assert names_and_labels(source) == [
        ("a.JPG", None),
        ("b.png", None),
        ("c.Jpeg", None),
        ("d.webp", None),
        ("e.bmp", None),
    ]
    assert len(source) == 5
    assert not source.has_labels
    assert source.labels == ()


def test_hidden_files_and_folders_are_left_out(tmp_path):
    make_tree(tmp_path, ["a.png", "._a.png", ".trash/b.png"])
    assert [item.name for item in FolderSource(tmp_path)] == ["a.png"]


def test_class_folders_are_searched_to_any_depth(tmp_path):
    make_tree(tmp_path, ["dog/2024/may/x.png", "dog/a.png", "cat/z.png", "cat/.thumbs/z.png"])
    source = FolderSource(tmp_path)
    assert names_and_labels(source) == [
        ("cat/z.png", 0),
        ("dog/2024/may/x.png", 1),
        ("dog/a.png", 1),
    ]
    assert source.has_labels


LABEL_RULES = {
    "by_name": (["cat", "dog"], ["dog", "cow", "cat"], [2, 0]),
    "by_name_though_as_many": (["cat", "dog"], ["dog", "cat"], [1, 0]),
    "by_name_numbers": (["2", "10"], ["0", "1", "2", "10"], [3, 2]),
    "unknown_labels_sorted": (["cat", "dog"], [], [0, 1]),
    "numbers_are_indices": ([*"0123456789", "10"], [], [0, 1, 10, *range(2, 10)]),
    "zero_padded": (["01", "00", "02"], ["tench", "cat", "cow"], [0, 1, 2]),
    "case": (["Bird", "Cat", "Dog"], ["cat", "dog", "bird"], [2, 0, 1]),
    "case_with_synset_words": (
        ["Tinca_tinca", "GOLDFISH"],
        ["tench, Tinca tinca", "goldfish"],
        [1, 0],
    ),
    "composition": (["cafe\u0301", "the"], ["thé", "the", "café"], [2, 1]),
    "as_many_sorted": (["n01", "n02"], ["tench", "goldfish"], [0, 1]),
}


@pytest.mark.parametrize(("folders", "labels", "expected"), LABEL_RULES.values(), ids=LABEL_RULES)
def test_class_folder_to_label(tmp_path, folders, labels, expected):
    make_tree(tmp_path, [f"{folder}/a.png" for folder in folders])
    source = FolderSource(tmp_path, labels)
    assert [item.label for item in source] == expected
    assert source.labels == (tuple(labels) or in_order(folders))


SYNSETS = ("n01440764", "n01443537", "n02119789", "n03888257")
LABELS = ("tench", "goldfish", "kit fox", "parachute")


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt"])
@pytest.mark.parametrize("above", ["Data/CLS-LOC/val", ".", ".."])
def test_synset_folders_are_classes_by_the_mapping(tmp_path, name, above):
    val = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    make_tree(val, ["n03888257/a.png", "n01443537/b.png"])
    words = "" if name == "synsets.txt" else " some, words"
    (tmp_path / "ILSVRC" / above / name).write_text("".join(f"{s}{words}\n" for s in SYNSETS))
    assert names_and_labels(FolderSource(val, LABELS)) == [
        ("n01443537/b.png", 1),
        ("n03888257/a.png", 3),
    ]
    assert [item.label for item in FolderSource(val, ("n03888257", "n01443537"))] == [1, 0]
    with pytest.raises(ImageError, match=r"n03888257 is class 3 of .*, and the model has 3"):
        FolderSource(val, num_classes=3)
    make_tree(val, ["n09999999/a.png"])
    with pytest.raises(ImageError, match=rf"n09999999 is none of the 4 synsets in .*{name}"):
        FolderSource(val, LABELS)


def test_a_mapping_that_git_left_as_a_pointer_is_named(tmp_path):
    make_tree(tmp_path, ["n03888257/a.png"])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 31675\n"
    (tmp_path / "synset_words.txt").write_text(pointer)
    with pytest.raises(ImageError, match="Git LFS pointer"):
        FolderSource(tmp_path, LABELS)


def test_synset_folders_without_a_mapping_count_as_any_other(tmp_path):
    make_tree(tmp_path / "val", [f"{synset}/a.png" for synset in SYNSETS])
    assert [item.label for item in FolderSource(tmp_path / "val", LABELS)] == [0, 1, 2, 3]
    make_tree(tmp_path / "few", ["n03888257/a.png"])
    with pytest.raises(ImageError, match=r"none of the model's 4 .*Put LOC_synset_mapping.txt"):
        FolderSource(tmp_path / "few", LABELS)


def test_empty_class_folder_keeps_its_place(tmp_path):
    make_tree(tmp_path, ["a/1.png", "c/1.png"])
    (tmp_path / "b").mkdir()
    source = FolderSource(tmp_path)
    assert names_and_labels(source) == [("a/1.png", 0), ("c/1.png", 2)]
    assert source.labels == ("a", "b", "c")


def test_folder_without_images_beside_images_is_no_class(tmp_path):
    make_tree(tmp_path, ["a.png"])
    (tmp_path / "notes").mkdir()
    assert names_and_labels(FolderSource(tmp_path)) == [("a.png", None)]


def test_refuses_class_folder_that_is_no_label(tmp_path):
    make_tree(tmp_path, ["cat/a.png", "horse/a.png"])
    with pytest.raises(
        ImageError, match=r"horse is none of the model's 3 labels \('cat', "
    ) as error:
        FolderSource(tmp_path, ["cat", "dog", "cow"])
    assert "Name the folders after the labels, or pass a flat folder" in one_line(error)


def test_refuses_class_folder_that_names_two_labels(tmp_path):
    make_tree(tmp_path, ["crane/a.png"])
    with pytest.raises(ImageError, match="crane names 2 of the model's labels, expected one"):
        FolderSource(tmp_path, ["crane", "tench", "crane"])


REFUSED = {
    "misspelt": (["bird", "cat", "dogs"], r"class folder .*dogs is none of .* Is it 'dog'\?"),
    "misspelt_though_as_many_by_order": (["Bird", "kat", "dog"], r"kat is none .* Is it 'cat'\?"),
    "all_plural": (["birds", "cats", "dogs"], r"birds is none .* Is it 'bird'\?"),
    "two_for_one_class": (["Cat", "cat", "dog"], r"cat and 'Cat' beside it are both class 0 'cat'"),
    "counted_from_1": (["1", "2", "3"], r"3: the 3 classes are 0 to 2; .* counted from 1\."),
    "gap": (["0", "2"], r"are numbers up to 2, and 1 is not among them.*Make an empty folder 1"),
    "gap_at_the_start": (["1", "2"], r"0 is not among them.*Counted from 1\? Then rename them"),
    "too_few_for_order": (["a1", "a2"], r"a1 is none of the model's 3 labels"),
    "splits": (["train", "val"], r"holds train, val: parts .* Pass one .*val$"),
    "splits_in_capitals": (["Training", "Validation", "TEST"], r"parts of a data set, not classes"),
    "one_split": (["cat", "valid"], r"holds valid: parts of a data set"),
}


@pytest.mark.parametrize(("folders", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_folders_that_may_be_other_classes(tmp_path, folders, message):
    make_tree(tmp_path / "data", [f"{folder}/a.png" for folder in folders])
    with pytest.raises(ImageError, match=message) as error:
        FolderSource(tmp_path / "data", ["cat", "dog", "bird"])
    one_line(error)


def test_the_classes_may_lie_one_level_below(tmp_path):
    make_tree(tmp_path / "data", ["photos/cat/a.png", "photos/dog/a.png"])
    with pytest.raises(ImageError) as error:
        FolderSource(tmp_path / "data", ["cat", "dog"])
    assert f"The classes are in {tmp_path}/data/photos: pass that" in one_line(error)


def test_without_names_order_decides_only_where_every_class_has_a_folder(tmp_path):
    make_tree(tmp_path, ["cat/a.png", "dog/a.png"])
    source = FolderSource(tmp_path, num_classes=2)
    assert [item.label for item in source] == [0, 1]
    assert source.notes == (
        f"Class folders of {tmp_path}: the model names no classes, so their sorted order decides: "
        "cat = 0, dog = 1.",
    )
    source = FolderSource(tmp_path, num_classes=12)
    assert names_and_labels(source) == [("cat/a.png", None), ("dog/a.png", None)]
    assert not source.has_labels
    assert "are no classes: there are 2 (cat, dog), and the model has 12" in source.notes[0]
    make_tree(tmp_path / "numbers", ["0/a.png", "11/a.png"])
    with pytest.raises(ImageError, match="the 3 classes are 0 to 2"):
        FolderSource(tmp_path / "numbers", num_classes=3)


NOTES = {
    "exact": (["cat", "dog"], ["dog", "cat"], ()),
    "inexact": (["Cat", "dog"], ["dog", "cat"], ("matched to labels without .*: Cat = 1 'cat'",)),
    "numbers": (["0", "1"], ["dog", "cat"], ("taken as class indices: 0 = 0 'dog', 1 = 1 'cat'",)),
    "order": (["n1", "n2"], ["dog", "cat"], ("none is one .*: n1 = 0 'dog', n2 = 1 'cat'",)),
}


@pytest.mark.parametrize(("folders", "labels", "expected"), NOTES.values(), ids=NOTES)
def test_notes_say_what_each_folder_was_taken_for(tmp_path, folders, labels, expected):
    make_tree(tmp_path, [f"{folder}/a.png" for folder in folders])
    notes = FolderSource(tmp_path, labels).notes
    assert len(notes) == len(expected)
    assert all(re.search(pattern, note) for pattern, note in zip(expected, notes, strict=True))


def test_classes_are_not_looked_at_where_none_are_wanted(tmp_path):
    make_tree(tmp_path, ["train/1/a.png", "val/3/a.png"])
    source = open_image_source(tmp_path, ["cat"], has_truth=False)
    assert names_and_labels(source) == [("train/1/a.png", None), ("val/3/a.png", None)]
    assert (source.has_labels, source.labels, source.notes) == (False, (), ())


def test_jpeg_by_any_name_is_read_and_the_rest_counted(tmp_path):
    names = ["a.jfif", "b.JPE", "c.tif", "d.heic", "e", "f.jpg"]
    for name in names:
        Image.fromarray(CHINA).save(tmp_path / name, "JPEG")
    Image.fromarray(CHINA).save(tmp_path / "real.tiff")
    for name in ("g.heic", "h.heic", "notes.txt"):
        (tmp_path / name).write_bytes(b"something else")
    for name in ("Thumbs.db", ".DS_Store", "__MACOSX/a.jpg", "@eaDir/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something else")
    source = FolderSource(tmp_path)
    assert [item.name for item in source] == names
    assert source.notes == (
        f"Left out of {tmp_path}: 2 .heic, 1 .tiff, 1 .txt, which are no JPEG, PNG, WebP or BMP.",
    )


def test_a_class_that_is_left_without_images_is_noted(tmp_path):
    make_tree(tmp_path, ["cat/a.png"])
    for name in ("dog/a.tif", "dog/b.tif", "annotations/a.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something else")
    source = FolderSource(tmp_path, ["cat", "dog"])
    assert names_and_labels(source) == [("cat/a.png", 0)]
    assert source.notes[1] == (
        f"Class folders of {tmp_path} without any image that is read: annotations (1 .xml), "
        "dog (2 .tif)."
    )
    assert len(FolderSource(tmp_path, has_truth=False).notes) == 1


def test_names_that_are_no_utf8_are_written_out(tmp_path):
    broken = os.fsdecode(b"caf\xe9")
    make_tree(tmp_path, [f"{broken}/1.png", "bar/2.png"])
    (tmp_path / broken / "1.png").rename(tmp_path / broken / os.fsdecode(b"\xff.png"))
    source = FolderSource(tmp_path)
    assert [item.name for item in source] == ["bar/2.png", r"caf\xe9/\xff.png"]
    assert source.labels == ("bar", r"caf\xe9")
    "".join([*source.labels, *source.notes]).encode()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.zip", r"is an archive, .*Unpack it and pass the folder: unzip .*a\.zip$"),
        ("a.tar.xz", r"is an archive, .*: tar xf .*a\.tar\.xz$"),
        ("a.xlsx", r"is no JPEG, .* a list in \.txt, \.csv, \.tsv, with one image a line"),
        ("val", r"is no JPEG, PNG, WebP or BMP file, expected an image, a folder, or a list"),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ImageError, match=message) as error:
        open_image_source(tmp_path / name)
    one_line(error)


def test_refuses_images_beside_class_folders(tmp_path):
    make_tree(tmp_path, ["a.png", "cat/b.png"])
    with pytest.raises(
        ImageError, match=r"holds images \(a\.png, \.\.\.\) beside folders"
    ) as error:
        FolderSource(tmp_path)
    one_line(error)


def test_refuses_empty_folder_and_says_what_it_looked_for(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(
        ImageError,
        match=r"no images \(it holds 1 \.gif\), .* \.bmp, \.jfif, \.jpe, \.jpeg, \.jpg, \.png",
    ) as error:
        FolderSource(tmp_path)
    one_line(error)


@pytest.mark.parametrize("make", [FolderSource, open_image_source])
def test_refuses_missing_folder(tmp_path, make):
    with pytest.raises(ImageError, match="none does not exist") as error:
        make(tmp_path / "none")
    one_line(error)


def test_refuses_folder_that_cannot_be_read(tmp_path, monkeypatch):
    make_tree(tmp_path, ["cat/a.png", "dog/a.png"])
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ImageError, match="dog cannot be read: Permission denied"):
        FolderSource(tmp_path)


def test_linked_class_folders_are_followed(tmp_path):
    make_tree(tmp_path / "store", ["a.png"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store", target_is_directory=True)
    assert names_and_labels(FolderSource(tmp_path / "data")) == [("cat/a.png", 0)]


@pytest.mark.parametrize("target", [".", "cat", "dog"], ids=["root", "itself", "other_class"])
def test_refuses_links_that_count_images_twice(tmp_path, target):
    make_tree(tmp_path, ["cat/a.png", "dog/b.png"])
    (tmp_path / "cat" / "again").symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(ImageError, match=r"is also reached as .* count twice\. Remove") as error:
        FolderSource(tmp_path)
    one_line(error)


def test_dangling_link_is_refused_and_not_skipped(tmp_path):
    make_tree(tmp_path, ["a.png"])
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"b\.png does not exist"):
        list(FolderSource(tmp_path))


def test_two_runs_give_equal_images_and_nothing_is_decoded_early(tmp_path):
    make_tree(tmp_path, [f"{label}/{index}.png" for label in "ab" for index in range(4)])
    source = FolderSource(tmp_path)
    first, second = list(source), list(source)
    assert names_and_labels(first) == names_and_labels(second)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, second, strict=True))
    assert len({item.pixels.tobytes() for item in first}) == 8  # each one its own image

    (tmp_path / "b" / "3.png").write_bytes(b"damaged")
    items = iter(FolderSource(tmp_path))
    assert [next(items).name for _ in range(7)][-1] == "b/2.png"
    with pytest.raises(ImageError, match=r"3\.png"):
        next(items)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, ["a/0"]),
        (2, ["a/0", "b/0"]),
        (4, ["a/0", "a/2", "b/0", "b/2"]),
        (7, ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2"]),
        (8, ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2", "b/3"]),
        (99, ["a/0", "a/1", "a/2", "a/3", "b/0", "b/1", "b/2", "b/3"]),
    ],
)
def test_limit_is_spread_over_the_classes(tmp_path, limit, expected):
    make_tree(tmp_path, [f"{label}/{index}.png" for label in "ab" for index in range(4)])
    folder = open_image_source(tmp_path, limit=limit)
    assert [item.name for item in folder] == [f"{name}.png" for name in expected]
    assert len(folder) == len(expected)

    limited = open_image_source(FolderSource(tmp_path), limit=limit)
    assert names_and_labels(limited) == names_and_labels(folder)
    assert len(limited) == len(folder)
    assert (limited.labels, limited.has_labels) == (("a", "b"), True)
