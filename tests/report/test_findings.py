"""What questions an evaluation stands in every form of a report, above the gates."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from edge_vit.measure.results import Finding
from edge_vit.report.html import render_html
from edge_vit.report.junit import render_junit
from edge_vit.report.markdown import render_markdown
from edge_vit.report.saved import read_json, write_json
from edge_vit.report.terminal import verdict_panel

CHANCE = Finding("chance", "undecided", "fp32 is right on 1.7 % of 600 labelled images.")
COPIES = Finding("copies", "note", "599 of 600 images are copies of others.")


@pytest.fixture(scope="module")
def questioned(report):
    verdict = dataclasses.replace(report.verdict, outcome="undecided", findings=(CHANCE, COPIES))
    return dataclasses.replace(report, verdict=verdict)


def test_the_terminal_says_each_before_the_gates(questioned):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(verdict_panel(questioned.verdict))
    words = " ".join(captured.get().split())
    for finding, sign in ((CHANCE, "? undecided"), (COPIES, "· note")):
        assert f"{sign} evaluation {finding.name} {finding.sentence}" in words
    assert words.index("evaluation chance") < words.index("max-drop")


def test_the_page_says_each(questioned):
    page = render_html(questioned)
    assert CHANCE.sentence in page
    assert COPIES.sentence in page
    assert '<li class="note">' in page


def test_markdown_says_each(questioned):
    lines = render_markdown(questioned).splitlines()
    (chance,) = [line for line in lines if "`chance`" in line]
    assert chance.startswith("- ❔ evaluation")
    (copies,) = [line for line in lines if "`copies`" in line]
    assert copies.startswith("- 💬 evaluation")


def test_a_finding_that_questions_is_an_error_of_the_suite_and_a_note_is_none(questioned):
    suite = ET.fromstring(render_junit(questioned)).find("testsuite")
    chance, copies = (
        suite.find(f"testcase[@name='evaluation {name}']") for name in ("chance", "copies")
    )
    assert chance.find("error").get("message") == CHANCE.sentence
    assert [each.tag for each in copies] == ["system-out"]
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert int(suite.get("errors")) == len(suite.findall("testcase/error"))


def test_json_holds_each(questioned, tmp_path):
    write_json(questioned, tmp_path / "report.json")
    assert read_json(tmp_path / "report.json") == questioned
    data = json.loads((tmp_path / "report.json").read_text())
    assert [finding["name"] for finding in data["verdict"]["findings"]] == ["chance", "copies"]
