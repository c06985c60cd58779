"""The committed schema describes what is written, and refuses what is not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from edge_vit.measure.compare import compare, measured_of
from edge_vit.report.saved import read_json
from edge_vit.report.schema import comparison_schema, report_schema
from edge_vit.values import to_json

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("name", "make"),
    [("report.schema.json", report_schema), ("comparison.schema.json", comparison_schema)],
)
def test_the_committed_schema_is_that_of_the_code(name, make):
    """Write it anew with: python -m edge_vit.report.schema docs."""
    schema = make()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads((DOCS / name).read_text()) == schema


def test_every_report_is_valid(any_report):
    jsonschema.validate(to_json(any_report), report_schema())


def test_every_format_is_valid_once_it_was_read():
    for path in GOLDEN.glob("report.format*.json"):
        jsonschema.validate(to_json(read_json(path)), report_schema())


def test_a_comparison_is_valid(report):
    comparison = compare([measured_of(report, "a"), measured_of(report, "b")])
    jsonschema.validate(to_json(comparison), comparison_schema())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("verdict", "outcome"), "maybe"),
        (("latency", 0, "samples_ms"), ["1"]),
        (("accuracy", 0, "agreement"), None),
        (("created",), 3),
        (("new",), 3),
    ],
)
def test_refuses_what_is_no_report(report, path, value):
    data = copy.deepcopy(to_json(report))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, report_schema())


def test_fields_are_described(report):
    gate = report_schema()["$defs"]["Gate"]["properties"]["images_needed"]
    assert gate["description"].startswith("how many images would decide an undecided gate")
