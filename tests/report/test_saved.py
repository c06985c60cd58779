"""Reports as JSON: what is written comes back, anything else is refused in one line."""

from __future__ import annotations

import json

import pytest

from edge_vit.errors import ArtifactError
from edge_vit.report.saved import read_json, write_json


def test_what_was_written_comes_back_equal(any_report, tmp_path):
    write_json(any_report, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == any_report


def edited(text: str, **fields) -> str:
    return json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], "is not a report"),
        (lambda text: "[1]", "report format None"),
        (lambda text: edited(text, format=99), "report format 99, this edge-vit reads 1 to 5"),
        (lambda text: edited(text, verdict=3), r"is not a report: .*verdict"),
        (lambda text: edited(text, extra=1), "unknown field 'extra'"),
    ],
    ids=["truncated", "no object", "other format", "wrong type", "unknown field"],
)
def test_refuses_what_is_no_report(damage, message, report, tmp_path):
    path = tmp_path / "report.json"
    write_json(report, path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_says_how_to_make_a_report_that_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match="edgevit verify BUNDLE --data DIR"):
        read_json(tmp_path / "none.json")
