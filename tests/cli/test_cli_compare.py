"""Reports side by side at the command line."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def reports(shared_bundle, held_out, tmp_path_factory):
    """Return two reports of the same, and one with another number of threads."""
    from edge_vit.measure.verify import verify
    from edge_vit.report.saved import write_json
    from edge_vit.runtime import SessionOptions

    folder = tmp_path_factory.mktemp("reports")
    for name, threads in (("a", 1), ("b", 1), ("c", 2)):
        options = SessionOptions(threads)
        report = verify(shared_bundle, held_out, backend="ort", options=options, iterations=5)
        write_json(report, folder / f"{name}.json")
    return folder


def test_prints_what_is_like_and_what_is_not(edgevit, reports):
    names = [reports / f"{name}.json" for name in "abc"]
    result = edgevit("compare", *names)
    assert result.exit_code == 0
    assert "threads 2, not 1" in result.stdout
    assert "not comparable" in result.stdout


@pytest.mark.parametrize("suffix", ["html", "md", "json"])
def test_writes_it_where_it_was_told(edgevit, reports, tmp_path, suffix):
    out = tmp_path / f"out.{suffix}"
    edgevit("compare", reports / "a.json", reports / "b.json", "-o", out)
    assert "int8 ort" in out.read_text()


def test_json_is_the_comparison_alone(edgevit, reports):
    data = json.loads(edgevit("compare", reports / "a.json", reports / "b.json", "--json").stdout)
    assert data["format"] == 1
    assert {entry["report"] for entry in data["entries"]} == {"a.json", "b.json"}
    assert {change["measure"] for change in data["changes"]} == {"latency", "accuracy"}


def test_strict_refuses_what_is_unlike(refused, reports):
    line = refused("compare", "--strict", reports / "a.json", reports / "c.json")
    assert "c.json and a.json are not alike" in line
    assert "threads 2, not 1" in line


def test_the_same_file_twice_is_two_reports(edgevit, reports):
    result = edgevit("compare", reports / "a.json", reports / "a.json")
    assert "a.json (2)" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.json"], "reports to compare: got 1"),
        (["a.json", "none.json"], "cannot be read"),
    ],
)
def test_refuses_too_little(refused, reports, names, words):
    assert words in refused("compare", *(reports / name for name in names))


def test_takes_bundles_by_their_latest_verdict(refused, reports, bundle):
    assert "holds no saved verdict" in refused("compare", reports / "a.json", bundle.path)
