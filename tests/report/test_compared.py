"""Reports side by side as tables, Markdown and a page."""

from __future__ import annotations

import dataclasses
import json

import html5lib
import pytest

from edge_vit.errors import ArtifactError
from edge_vit.measure.compare import compare, measured_of
from edge_vit.report.compared import (
    all_grids,
    conditions_grid,
    front_of,
    label_heights,
    letters,
    pareto_plot,
)
from edge_vit.report.html import render_comparison
from edge_vit.report.markdown import render_comparison_markdown
from edge_vit.report.saved import read_measured, write_json
from edge_vit.values import to_json


@pytest.fixture(scope="module")
def comparison(report):
    other = dataclasses.replace(
        report, latency=tuple(dataclasses.replace(r, threads=4) for r in report.latency)
    )
    names = ("a.json", "b.json", "<script>alert(1)</script>")
    return compare(
        [measured_of(r, name) for r, name in zip((report, report, other), names, strict=True)]
    )


def test_signs_tell_reports_apart(comparison):
    assert letters(comparison) == dict(
        zip(("a.json", "b.json", "<script>alert(1)</script>"), "ABC", strict=True)
    )


def test_only_conditions_that_differ_have_a_row(comparison):
    assert conditions_grid(comparison).rows == (("threads", "2", "2", "4"),)


def test_tables_have_as_many_cells_in_each_row(comparison):
    grids = all_grids(comparison)
    assert [grid.title for grid in grids] == [
        *("Reports", "Measured", "Against A", "Conditions that differ")
    ]
    assert all(len(row) == len(grid.columns) for grid in grids for row in grid.rows)


def test_the_page_is_valid_and_says_what_differs(comparison):
    page = render_comparison(comparison)
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<script" not in page
    assert "Not comparable: threads 4, not 2." in page
    assert page.count('role="img"') == 1
    assert "No difference: 1.000 times the time" in page


def test_a_page_without_accuracy_has_no_plot(report):
    bare = dataclasses.replace(report, accuracy=())
    comparison = compare([measured_of(bare, "a"), measured_of(bare, "b")])
    assert pareto_plot(comparison) is None
    html5lib.HTMLParser(strict=True).parse(render_comparison(comparison))


def test_what_was_noted_of_accuracies_and_latencies_is_on_the_page_once(report):
    accuracy = tuple(dataclasses.replace(r, notes=("In <bfloat16>.",)) for r in report.accuracy)
    latency = tuple(dataclasses.replace(r, remark="Timed in bfloat16.") for r in report.latency)
    noted = dataclasses.replace(report, accuracy=accuracy, latency=latency)
    page = render_comparison(compare([measured_of(noted, "a"), measured_of(noted, "b")]))
    html5lib.HTMLParser(strict=True).parse(page)
    assert page.count("In &lt;bfloat16&gt;.") == page.count("Timed in bfloat16.") == 1


def test_markdown_has_every_table(comparison):
    text = render_comparison_markdown(comparison)
    assert "### Conditions that differ" in text
    assert "\\<script\\>" in text


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(2, 0.9), (1, 0.8), (3, 0.7)], [1, 0]),
        ([(1, 0.9), (1, 0.8)], [0]),
        ([(1, 0.9), (2, 0.9)], [0]),
        ([], []),
    ],
    ids=["slower and better", "as fast", "as good", "none"],
)
def test_the_front_holds_what_no_other_beats(points, front):
    assert front_of(points) == front


def test_labels_of_near_points_stand_apart():
    heights = label_heights([(100, 50), (110, 50), (120, 52), (400, 50)], ["A int8 ort"] * 4)
    assert len(set(heights[:3])) == 3
    assert heights[3] == heights[0]


def test_reads_what_bench_and_eval_print(report, tmp_path):
    path = tmp_path / "x.json"
    for part in (report.latency[0], report.accuracy[0], [report.latency[0], report.latency[1]]):
        path.write_text(json.dumps(to_json(part)))
        measured = read_measured(path, "x")
        assert len(measured.latency) + len(measured.accuracy) >= 1
    write_json(report, path)
    assert read_measured(path, "x").model == report.model.name


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "[3]", "3", "{", '{"latency_ms": 3}', '{"verdict": 1, "format": 9}'],
)
def test_refuses_what_is_no_report_in_one_line(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ArtifactError) as caught:
        read_measured(path, "x")
    assert "\n" not in str(caught.value)
    assert "x.json" in str(caught.value)
