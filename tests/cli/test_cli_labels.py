"""Class names from a file."""

from __future__ import annotations

import json

import pytest

from edge_vit.cli.export import read_labels
from edge_vit.errors import SpecError


@pytest.mark.parametrize(
    "text",
    [
        "cat\n dog \n\nbücher\n",
        "\ufeffcat\ndog\nbücher\n",
        json.dumps(["cat", "dog", "bücher"]),
        json.dumps({"2": "bücher", "0": "cat", "1": "dog"}),
    ],
    ids=["lines", "lines of Windows", "list", "object"],
)
def test_reads_names_by_index(tmp_path, text):
    path = tmp_path / "labels"
    path.write_text(text, encoding="utf-8")
    assert read_labels(path) == ("cat", "dog", "bücher")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"0": "cat", "2": "dog"}', "a name for every index from 0 on"),
        (b'["cat", 3]', "expected a list of names"),
        (b'["cat"', "are no JSON"),
        (b"\xe9t\xe9\n", "cannot be read"),
    ],
    ids=["gap", "number", "broken", "not UTF-8"],
)
def test_refuses_what_does_not_name_every_class(tmp_path, content, says):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        read_labels(path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(SpecError, match=r"cannot be read: .*No such file"):
        read_labels(tmp_path / "labels")
