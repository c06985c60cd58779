"""Names of classes against the labels of a model, beyond what folders and tables show."""

from __future__ import annotations

import time

import pytest

from edge_vit.data.class_names import Naming, as_index, in_order, key_of, match_names, nearest_label
from edge_vit.errors import ImageError

NAMING = Naming("Names", lambda name: f"name {name}", lambda: "Write the label")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Golden Retriever", "golden_retriever"),
        ("golden-retriever", "Golden  retriever "),
        ("café", "CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("ﬁsh", "fish"),  # a ligature
        ("cat\u200b", "cat"),  # a space of width zero
        ("Ångström", "Angstro\u0308m".replace("A", "\u212b")),  # the sign of the unit
        ("007", "7"),
        ("non\u2011human", "non-human"),
        ("indoor/outdoor", "Indoor_outdoor"),
    ],
)
def test_names_that_differ_in_nothing_that_tells_classes_apart(one, other):
    assert key_of(one) == key_of(other)
    assert match_names([one], [other, "another"], NAMING).indices == {one: 0}


@pytest.mark.parametrize(("one", "other"), [("cat", "cats"), ("a1", "a2"), ("resume", "résumé")])
def test_names_that_do_differ(one, other):
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("dogs", "dog"),
        ("puppies", "puppy"),
        ("boxes", "box"),
        ("brid", "bird"),
        ("001.dog", "dog"),
        ("dog images", "dog"),
        ("tench fish", "tench, Tinca tinca"),
        ("lorry", None),
    ],
)
def test_the_label_that_a_name_is_like(name, label):
    labels = ("dog", "puppy", "box", "bird", "tench, Tinca tinca")
    assert nearest_label(name, labels) == label


def test_a_synonym_of_two_labels_is_none():
    labels = ("crane, bird", "crane, machine", "bird")
    with pytest.raises(ImageError, match="name Crane names 2 of the model's labels"):
        match_names(["Crane"], labels, NAMING)
    assert match_names(["Bird", "MACHINE"], labels, NAMING).indices == {"Bird": 2, "MACHINE": 1}


def test_labels_that_differ_in_case_are_matched_by_the_letter_alone():
    labels = ("Cat", "cat", "CAT dog")
    assert match_names(["cat", "Cat"], labels, NAMING).indices == {"cat": 1, "Cat": 0}
    with pytest.raises(ImageError, match="name CAT names 2"):
        match_names(["CAT"], labels, NAMING)


def test_thousands_of_names_are_matched_at_once():
    labels = [f"label number {index}" for index in range(5000)]
    names = [f"n{index:08d}" for index in range(5000)]
    start = time.process_time()
    assert match_names(names, labels, NAMING, is_complete=True).indices["n00004999"] == 4999
    with pytest.raises(ImageError, match="Is it 'label number 7'"):
        match_names(["label numbr 7", *labels], labels, NAMING, is_complete=True)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("names", "is_fine"),
    [
        ([f"class_{i}" for i in range(10)], True),
        ([f"class_{i}" for i in range(11)], False),
        ([f"class_{i:02d}" for i in range(11)], True),
        (["v1.10 a", "v1.9 a"], False),
        (["n01440764", "n02102040"], True),
        (["dog 2", "dog1"], False),
        (["abcdefghijk 1", "abcdefghijl 0"], True),
    ],
)
def test_numbers_within_names_must_not_be_torn_by_their_order_as_text(names, is_fine):
    names = sorted(names)
    if is_fine:
        found = match_names(names, (), NAMING, num_classes=len(names), is_complete=True)
        assert list(found.indices.values()) == list(range(len(names)))
        return
    with pytest.raises(ImageError, match=r"as text '.*' comes before '.*', so their sorted"):
        match_names(names, (), NAMING, num_classes=len(names), is_complete=True)


def test_a_long_mapping_is_shortened():
    (note,) = match_names(
        [str(i) for i in range(99)], [f"c{i}" for i in range(99)], NAMING, is_complete=True
    ).notes
    assert "5 = 5 'c5', ... (99 in all)" in note
    assert len(note) < 200


@pytest.mark.parametrize("word", ["", "x", "-1", "1.5", "1e3", "٣", "9" * 5000])
def test_words_that_are_no_index(word):
    assert as_index(word) is None


def test_numbers_are_ordered_by_size():
    assert in_order(["10", "9", "1"]) == ("1", "9", "10")
    assert in_order(["b", "10", "9"]) == ("10", "9", "b")
