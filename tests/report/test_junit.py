"""JUnit XML: what a CI reads of a verdict."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import pytest

from edge_vit.report.junit import render_junit


@pytest.fixture
def suite(any_report):
    return ET.fromstring(render_junit(any_report)).find("testsuite")


def test_the_suite_fails_as_the_verdict_does(any_report, suite):
    outcome = any_report.verdict.outcome
    assert int(suite.get("failures")) == (outcome == "fail")
    assert int(suite.get("errors")) == (outcome == "undecided")


def test_every_gate_is_a_case_and_counts_add_up(any_report, suite):
    cases = suite.findall("testcase")
    assert [case.get("name").split()[-1] for case in cases] == [
        gate.name for gate in any_report.verdict.gates
    ]
    assert int(suite.get("tests")) == len(cases)
    for kind in ("failure", "error", "skipped"):
        number = suite.get({"failure": "failures", "error": "errors"}.get(kind, kind))
        assert len(suite.findall(f"testcase/{kind}")) == int(number)


def test_a_gate_of_another_precision_never_fails_the_suite(suite):
    (skipped,) = suite.findall("testcase[@name='fp16 min-speedup']/skipped")
    assert skipped.get("message").startswith("It is slower than FP32")


def test_a_gate_of_the_candidate_on_another_backend_never_fails_the_suite(report):
    verdict = report.verdict
    other = dataclasses.replace(verdict.gates[0], outcome="fail", backend="openvino")
    ours = [dataclasses.replace(gate, backend="ort") for gate in verdict.gates]
    verdict = dataclasses.replace(verdict, gates=(*ours, other), backend="ort")
    suite = ET.fromstring(render_junit(dataclasses.replace(report, verdict=verdict)))
    assert suite.get("failures") == "0"
    assert suite.find(".//testcase[@name='int8 openvino max-drop']/skipped") is not None


def test_says_the_conditions_and_the_sentence(report, suite):
    values = {p.get("name"): p.get("value") for p in suite.findall("properties/property")}
    assert values["device"] == report.environment.device
    assert values["onnxruntime"] == "1.23.2"
    assert suite.find("system-out").text.startswith(("Ship", "Do not", "Undecided"))


def test_names_that_are_no_xml_are_written_as_text(report):
    evil = dataclasses.replace(report.model, name='<a b="\x00\x1b[0m">&\ud800')
    page = render_junit(dataclasses.replace(report, model=evil))
    page.encode()
    assert '<a b="??[0m">&?' in ET.fromstring(page).get("name")
