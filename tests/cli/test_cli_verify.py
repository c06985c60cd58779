"""The verdict: printed, kept in the bundle, and told by the exit status."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
import shutil
import sys

import pytest
from click.testing import CliRunner

from edge_vit.bundle import TABLE, Bundle
from edge_vit.cli import main
from edge_vit.errors import MissingDependencyError
from edge_vit.report import html
from edge_vit.report.saved import read_json, write_json

pytestmark = pytest.mark.uncounted

FAST = ("--iterations", 5, "--threads", 1)


@pytest.fixture
def outcome(monkeypatch):
    """Return a function that makes every verdict come out as told; all else is measured."""
    from edge_vit.measure import verdict, verify

    def force(outcome):
        def decide(*arguments, **options):
            return dataclasses.replace(verdict.decide(*arguments, **options), outcome=outcome)

        monkeypatch.setattr(verify, "decide", decide)

    return force


@pytest.fixture(scope="module")
def judged_home(shared_bundle, held_out, tmp_path_factory):
    """Return a bundle with saved reports, to read only."""
    path = tmp_path_factory.mktemp("judged") / "digits.edgevit"
    shutil.copytree(shared_bundle.path, path)
    CliRunner().invoke(main, ["verify", str(path), "--data", str(held_out), "--iterations", "5"])
    return path


@pytest.fixture
def judged(judged_home, tmp_path):
    """Return a copy of a bundle with saved reports."""
    shutil.copytree(judged_home, tmp_path / "judged.edgevit")
    return Bundle.open(tmp_path / "judged.edgevit")


@pytest.mark.parametrize(("word", "status"), [("pass", 0), ("fail", 3), ("undecided", 5)])
def test_exit_status_is_the_verdict(edgevit, bundle, held_out, outcome, word, status):
    outcome(word)
    result = edgevit("verify", bundle.path, "--data", held_out, *FAST, "--no-report")
    assert result.exit_code == status
    assert word in result.stdout
    assert not bundle.reports_path.exists()


@pytest.mark.parametrize("command", ["verify", "eval"])
def test_says_where_images_leave_the_calibrated_ranges(edgevit, bundle, held_out, command):
    arguments = [command, bundle.path, "--data", held_out]
    arguments += [*FAST, "--no-report"] if command == "verify" else []
    result = edgevit(*arguments)
    assert "leave the calibrated ranges" not in result.stdout + result.stderr
    table = bundle.read_table()
    name, site = "block0/fc2", table.sites["block0/fc2"]
    sites = {**table.sites, name: dataclasses.replace(site, activation_amax=1e-3)}
    narrow = dataclasses.replace(table, sites=sites)
    bundle.add({TABLE: narrow.to_bytes()})
    result = edgevit(*arguments)
    said = " ".join((result.stdout + result.stderr).split())
    assert "Images leave the calibrated ranges, where INT8 clips: block0/fc2 reaches" in said


def test_an_evaluation_without_int8_looks_at_no_ranges(edgevit, bundle, held_out, monkeypatch):
    monkeypatch.setattr("edge_vit.api.check_coverage", None)
    assert edgevit("eval", bundle.path, "--data", held_out, "--precision", "fp32").exit_code == 0


def test_says_that_ranges_were_not_checked_without_onnx(edgevit, bundle, held_out, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    result = edgevit("verify", bundle.path, "--data", held_out, *FAST, "--no-report", "--json")
    notes = " ".join(json.loads(result.stdout)["notes"])
    assert "stay within the calibrated ranges was not checked: checking ranges needs onnx" in notes


def test_limits_reach_the_gates(edgevit, bundle, held_out):
    enough = ("--iterations", 40, "--threads", 1)
    arguments = ("verify", bundle.path, "--data", held_out, *enough, "--json", "--no-report")
    data = json.loads(edgevit(*arguments, "--max-drop", 99, "--min-speedup", 0.001).stdout)
    assert {gate["limit"] for gate in data["verdict"]["gates"]} == {99, 0.001, 90, 10}
    assert data["verdict"]["outcome"] == "pass"
    assert edgevit(*arguments, "--max-drop", 99, "--min-speedup", 1e6).exit_code == 3


def test_every_limit_and_a_baseline_reach_the_gates(judged, edgevit, held_out, tmp_path):
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    summary.write_text("before\n")
    result = edgevit(
        *("verify", judged.path, "--data", held_out, *FAST, "--json", "--no-report"),
        *("--min-agreement", 1, "--max-p99-ms", 9999, "--baseline", judged.path),
        *("--max-slowdown", 50, "--junit", junit, "--markdown", summary),
    )
    gates = {
        gate["name"]: gate
        for gate in json.loads(result.stdout)["verdict"]["gates"]
        if gate["precision"] == "int8"
    }
    assert gates["min-agreement"]["outcome"] == "pass"
    assert "--iterations 370 would decide" in gates["max-p99-ms"]["sentence"]
    assert gates["baseline-accuracy"]["outcome"] == "pass"
    assert gates["baseline-speed"]["limit"] == 50
    assert junit.read_text().startswith("<?xml")
    assert summary.read_text().startswith("before\n## ")
    assert "baseline-speed" in summary.read_text()


def test_takes_all_backends_that_this_machine_has(edgevit, bundle, held_out, monkeypatch):
    monkeypatch.setattr("edge_vit.measure.verify.available_backends", lambda: ("ort",))
    result = edgevit(
        *("verify", bundle.path, "--data", held_out, *FAST, "--backend", "all", "--no-report")
    )
    assert result.exit_code in (0, 3, 5)
    assert "fp32 ort" in result.stdout


def test_refuses_a_baseline_that_is_none_before_measuring(refused, bundle, held_out, tmp_path):
    arguments = ("verify", bundle.path, "--data", held_out, "--baseline")
    assert "holds no saved verdict" in refused(*arguments, bundle.path)
    assert "cannot be read" in refused(*arguments, tmp_path / "none.json")


def test_prints_tables_and_writes_the_report_where_it_was_told(edgevit, bundle, held_out, tmp_path):
    out, page = tmp_path / "report.json", tmp_path / "report.md"
    arguments = ("verify", bundle.path, "--data", held_out, *FAST, "--no-report")
    result = edgevit(*arguments, "-o", page, "-o", out)
    assert all(word in result.stdout for word in ("Accuracy", "Latency", "min-speedup", "SHA-256"))
    assert read_json(out).verdict.exit_status == result.exit_code
    assert all(f"Report: {path}" in result.stderr for path in (page, out))
    assert "min-speedup" in page.read_text()


def test_keeps_the_report_in_the_bundle(judged):
    saved = read_json(judged.reports_path / "verify.json")
    page = (judged.reports_path / "verify.html").read_text()
    assert saved.verdict.sentence.split(":")[0] in page
    assert "block1/fc2" in page


def test_json_is_the_report_alone(edgevit, bundle, held_out, monkeypatch):
    monkeypatch.setattr(html, "render_html", lambda *arguments: "page")
    result = edgevit("verify", bundle.path, "--data", held_out, *FAST, "--json", "--num-images", 9)
    data = json.loads(result.stdout)
    assert [report["num_images"] for report in data["accuracy"]] == [9, 9, 9]
    assert not any(case["thumbnail_png"] for r in data["accuracy"] for case in r["worst"])
    saved = read_json(bundle.reports_path / "verify.json")
    assert all(case.thumbnail_png for report in saved.accuracy for case in report.worst)


def test_a_missing_extra_costs_no_verdict(edgevit, bundle, held_out, outcome, monkeypatch):
    outcome("undecided")
    load = importlib.import_module

    def without_jinja2(name, package=None):
        if name == "jinja2":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", without_jinja2)
    result = edgevit("verify", bundle.path, "--data", held_out, *FAST)
    assert result.exit_code == 5
    assert "pip install 'edge-vit[report]'" in result.stderr
    assert "verify.html was not written" in result.stderr
    assert (bundle.reports_path / "verify.json").exists()
    assert not (bundle.reports_path / "verify.html").exists()


def test_a_bundle_that_cannot_be_written_costs_no_verdict(
    edgevit, bundle, held_out, outcome, monkeypatch
):
    outcome("fail")

    def refuse(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(html, "render_html", lambda *arguments: "page")
    monkeypatch.setattr(os, "replace", refuse)
    result = edgevit("verify", bundle.path, "--data", held_out, *FAST)
    assert result.exit_code == 3
    assert result.stderr.count("was not written: cannot write") == 2


def test_a_report_that_was_asked_for_has_to_be_written(
    edgevit, bundle, held_out, outcome, monkeypatch
):
    outcome("pass")

    def refuse(*arguments):
        raise MissingDependencyError("the HTML report needs jinja2")

    monkeypatch.setattr(html, "write_html", refuse)
    result = edgevit(
        *("verify", bundle.path, "--data", held_out, *FAST, "--no-report"),
        *("-o", bundle.path.parent / "page.html"),
    )
    assert result.exit_code == 1
    assert "Error: the HTML report needs jinja2" in result.stderr
    assert "Accuracy" in result.stdout


def test_refuses_a_report_of_unknown_kind_before_measuring(refused, bundle, held_out):
    line = refused("verify", bundle.path, "--data", held_out, "-o", "report.pdf", status=2)
    assert line == "-o report.pdf: expected a name that ends in .html, .md or .json"


def test_report_rewrites_the_page(edgevit, judged, tmp_path):
    page = judged.reports_path / "verify.html"
    before = page.read_text()
    page.unlink()
    result = edgevit("report", judged.path)
    assert (result.exit_code, result.stdout) == (0, f"{page}\n")
    assert page.read_text() == before
    out, copy = tmp_path / "copy.json", tmp_path / "copy.html"
    result = edgevit("report", judged.path, "-o", copy, "-o", out)
    assert (result.exit_code, result.stdout) == (0, f"{copy}\n{out}\n")
    assert copy.read_text() == before
    assert read_json(out) == read_json(judged.reports_path / "verify.json")


def test_report_leaves_the_layers_out_where_the_bundle_has_changed(edgevit, judged, calibration):
    page = judged.reports_path / "verify.html"
    assert "block1/fc2" in page.read_text()
    edgevit("calibrate", judged.path, "--calib", calibration, "--threads", 1)
    result = edgevit("report", judged.path)
    assert result.exit_code == 0
    assert "has changed since it was verified" in result.stderr
    assert "block1/fc2" not in page.read_text()


def test_report_refuses_a_bundle_without_a_verdict(refused, bundle):
    line = refused("report", bundle.path)
    expected = f"{bundle.path} holds no saved verdict. Run: edgevit verify {bundle.path} --data DIR"
    assert line == expected


def test_report_takes_the_newest(edgevit, judged, tmp_path):
    newest, older = judged.reports_path / "verify.json", judged.reports_path / "verify-a.json"
    report = read_json(newest)
    write_json(dataclasses.replace(report, created="long ago"), older)
    os.utime(older, (1, 1))
    out = tmp_path / "newest.json"
    edgevit("report", judged.path, "-o", out)
    assert read_json(out).created == report.created
    os.utime(newest, (0, 0))
    edgevit("report", judged.path, "-o", out)
    assert read_json(out).created == "long ago"
