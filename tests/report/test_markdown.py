"""Markdown: what a code host shows as a step's summary."""

from __future__ import annotations

import dataclasses
import re

from edge_vit.report.grids import Grid
from edge_vit.report.markdown import escaped, render_markdown, table_lines


def test_begins_with_the_verdict_and_its_sentence(any_report):
    lines = render_markdown(any_report).splitlines()
    assert re.match("## [✅❌❔] ", lines[0])
    assert escaped(any_report.verdict.sentence) in lines[2]


def test_every_table_has_as_many_cells_in_each_row(report, table):
    block: list[int] = []
    for line in [*render_markdown(report, table).splitlines(), ""]:
        if line.startswith("|"):
            block.append(len(re.findall(r"(?<!\\)\|", line)))
        elif block:
            assert len(set(block)) == 1
            assert len(block) >= 3
            block = []


def test_folds_that_are_opened_are_closed(report, table):
    text = render_markdown(report, table)
    assert text.count("<details>") == text.count("</details>") >= 7


def test_holds_gates_numbers_layers_notes_and_conditions(report, table):
    text = render_markdown(report, table)
    for words in ("min-speedup", "p99 (ms)", "block5/fc2", "AMD EPYC", report.bundle_digest):
        assert words in text
    assert escaped(report.notes[0]) in text


def test_names_from_outside_stay_text(report):
    evil = "<script>alert(1)</script> | [x](y) `z` @team\n# new"
    text = render_markdown(
        dataclasses.replace(
            report, model=dataclasses.replace(report.model, name=evil), notes=(evil,)
        )
    )
    assert "<script" not in text.replace("\\<script", "")
    assert "\n# new" not in text
    assert "\\@team" in text


def test_numbers_stand_to_the_right():
    lines = list(table_lines(Grid("T", ("a|b", "n"), (("x", "1"),))))
    assert lines == ["| a\\|b | n |", "| --- | ---: |", "| x | 1 |"]


def test_fits_a_step_summary_with_a_thousand_labels(report, table):
    assert len(render_markdown(report, table).encode()) < 100_000
