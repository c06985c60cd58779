"""The small functions under the tables and plots."""

from __future__ import annotations

import pytest

from edge_vit.report.plots import accuracy_panels, drawn_range, num_beyond
from edge_vit.report.sites import by_block, kinds_of, sites_in_order
from edge_vit.report.svg import draw_plot, role_color
from edge_vit.report.wording import (
    count,
    listing,
    measured,
    megabytes,
    number,
    percent,
    ratio,
    significant,
    span,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.97254), "97.25 %"),
        (percent(None), "–"),
        (number(1234.5, 1), "1234.5"),
        (number(12345.6, 0), "12\u202f346"),
        (significant(0.0041234), "0.00412"),
        (significant(1.4), "1.40"),
        (significant(206.4), "206"),
        (significant(4200.0), "4200"),
        (significant(None), "–"),
        (span(-0.22, None), "-0.220 – –"),
        (span(None, None), "–"),
        (ratio(1.0499), "1.04×"),
        (ratio(1.05), "1.05×"),
        (measured(1.0464), "1.046"),
        (measured(0.5), "0.5"),
        (count(1, "image"), "1 image"),
        (count(0, "image"), "0 images"),
        (megabytes(999), "999 B"),
        (megabytes(1_500), "1.5 kB"),
        (megabytes(22_000_000), "22.0 MB"),
        (listing([]), ""),
        (listing(["a"]), "a"),
        (listing(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_are_spelled_one_way(said, expected):
    assert said == expected


def test_sites_come_in_the_order_in_which_data_passes_them(table):
    shuffled = dict(sorted(table.sites.items(), key=lambda item: item[0][::-1]))
    for i in (10, 11):
        shuffled[f"block{i}/qkv"] = table.sites["block0/qkv"]
    shuffled["head"] = table.sites["block0/qkv"]
    sites = sites_in_order(type(table)(table.recipe, "", shuffled, ()))
    assert [s.name for s in sites[:5]] == [
        *("head", "block0/qkv", "block0/proj", "block0/fc1", "block0/fc2")
    ]
    assert list(by_block(sites))[-3:] == ["block5", "block10", "block11"]
    assert kinds_of(sites) == ("qkv", "proj", "fc1", "fc2", "head")


def test_stragglers_are_counted_not_drawn(report):
    low, high = drawn_range(report.latency)
    assert 0 < low < min(r.latency_ms.min for r in report.latency)
    assert high < max(r.latency_ms.max for r in report.latency)
    slower = sum(s > high for r in report.latency for s in r.samples_ms)
    assert num_beyond(report.latency) == slower > 0


def test_rates_have_the_wilson_interval_of_scipy(report):
    stats = pytest.importorskip("scipy.stats")
    panels = accuracy_panels(report.accuracy)
    assert [rate.precision for rate in panels["top-1"]] == ["fp32", "fp16", "int8"]
    rate = panels["same answer as fp32"][1]
    wilson = stats.binomtest(996, 1000).proportion_ci(method="wilson")
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.996, wilson.low, wilson.high))


def test_svg_takes_colours_from_the_page_and_brings_nothing_of_its_own():
    def paint(figure):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o-", color=role_color("int8"))
        axes.set_title("$a <b> & \\x")

    plot = draw_plot("test", "a <line> & more", paint, 100)
    assert plot.startswith('<svg viewBox="0 0 840 100" role="img" aria-label="a &lt;line&gt;')
    again = draw_plot("test", "a <line> & more", paint, 100)
    assert again == plot
    assert "var(--int8)" in plot
    assert "$a &lt;b&gt; &amp; \\x" in plot
    for foreign in ("http", "<?xml", "<!DOCTYPE", "<metadata", "<style", "font-family", "#0000"):
        assert foreign not in plot
    assert 'id="test-' in plot
