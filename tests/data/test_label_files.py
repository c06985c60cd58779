"""Class names from a file."""

from __future__ import annotations

import json

import pytest

from edge_vit.data.class_names import read_labels
from edge_vit.errors import SpecError


@pytest.mark.parametrize(
    "text",
    [
        "cat\n dog \n\nbücher\n",
        "\ufeffcat\ndog\nbücher\n",
        json.dumps(["cat", "dog", "bücher"]),
        json.dumps({"2": "bücher", "0": "cat", "1": "dog"}),
        json.dumps({"bücher": 2, "cat": 0, "dog": 1}),
        json.dumps({"id2label": {"2": "bücher", "0": "cat", "1": "dog"}, "label2id": {}}),
    ],
    ids=["lines", "lines of Windows", "list", "object", "by name", "config.json"],
)
def test_reads_names_by_index(tmp_path, text):
    path = tmp_path / "labels"
    for encoding in ("utf-8", "utf-16"):
        path.write_text(text, encoding=encoding)
        assert read_labels(path) == ("cat", "dog", "bücher")


def test_a_name_may_hold_what_is_a_line_break_elsewhere(tmp_path):
    (tmp_path / "labels").write_text("a\x85b\u2028c\ndog\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels") == ("a\x85b\u2028c", "dog")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"0": "cat", "2": "dog"}', "a name for every index from 0 on"),
        (b'["cat", 3]', "a JSON list of names"),
        (b'["cat"', "cannot be read: Expecting"),
        (b"\xe9t\xe9\n", "cannot be read: byte 0 is no UTF-8"),
        (b'["cat", ""]', "a JSON list of names"),
        (b'{"cat": 0, "dog": 2}', "a name for every index from 0 on"),
        (b'{"cat": 0, "dog": true}', "a name for every index from 0 on"),
        (b"", "got no name, expected a name a line"),
        (b"[]", "a JSON list of names"),
    ],
    ids=[
        *("gap", "number", "broken", "not UTF-8", "no name", "gap by name", "bool"),
        *("nothing", "no names"),
    ],
)
def test_refuses_what_does_not_name_every_class(tmp_path, content, says):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        read_labels(path)


def test_refuses_a_table_whose_lines_are_no_names(tmp_path):
    (tmp_path / "labels.csv").write_text("id,name\n0,cat\n1,dog\n")
    with pytest.raises(SpecError, match="is a table, its first line 'id,name', expected names"):
        read_labels(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("cat\nred, blue bird\n")
    assert read_labels(tmp_path / "labels.csv") == ("cat", "red, blue bird")


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(SpecError, match=r"cannot be read: .*No such file"):
        read_labels(tmp_path / "labels")
