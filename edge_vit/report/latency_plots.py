"""How long a run takes: the distribution of each precision, and its course over the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.measure.results import LatencyReport
from edge_vit.report.grids import name_in
from edge_vit.report.svg import Plot, draw_plot, format_color, role_color
from edge_vit.report.wording import listing, significant

NUM_BINS = 90
DRAWN_SHARE = 99
"""Percentile up to which samples are drawn; a few stragglers would flatten all the rest."""

LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)))
"""Of the curves of each backend; the colour is the precision's."""

DRAWN_MEDIANS = 4
"""Medians up to which samples are drawn: on a busy machine even p99 lies far out."""

MAX_POINTS = 60
"""Points of a curve over the run; more samples than that are summed up in groups."""

Samples = npt.NDArray[np.float64]


def distribution_plot(reports: Sequence[LatencyReport]) -> Plot:
    """Return one histogram per precision, below each other on one axis in milliseconds."""
    medians = [f"{name_in(r, reports)} {significant(r.latency_ms.p50)} ms" for r in reports]
    alt = f"Histograms of the latency of each precision. Medians: {listing(medians)}."
    low, high = drawn_range(reports)
    bins = np.linspace(low, high, NUM_BINS + 1)

    def paint(figure: Any, is_narrow: bool) -> None:
        rows = figure.subplots(len(reports), sharex=True, squeeze=False)[:, 0]
        for axes, report in zip(rows, reports, strict=True):
            _paint_histogram(axes, report, bins, name_in(report, reports))
        for axes in rows[:-1]:
            axes.tick_params(axis="x", length=0)
        rows[-1].set_xlabel("latency of one run (ms)")
        rows[-1].set_xlim(low, high)

    height = 60 + 92 * len(reports)
    return draw_plot("distribution", alt, paint, wide_height=height, narrow_height=height)


def drawn_range(reports: Sequence[LatencyReport]) -> tuple[float, float]:
    """Return the milliseconds between which the distributions are drawn."""
    low = min(min(r.samples_ms) for r in reports)
    high = max(
        min(
            float(np.percentile(r.samples_ms, DRAWN_SHARE)),
            DRAWN_MEDIANS * float(np.median(r.samples_ms)),
        )
        for r in reports
    )
    margin = 0.06 * (high - low) or 0.05 * high
    return max(0.0, low - margin), high + margin


def num_beyond(reports: Sequence[LatencyReport]) -> int:
    """Return how many samples are slower than the plot reaches."""
    _, high = drawn_range(reports)
    return sum(sample > high for report in reports for sample in report.samples_ms)


def _paint_histogram(axes: Any, report: LatencyReport, bins: Samples, name: str) -> None:
    color, summary = format_color(report.precision), report.latency_ms
    counts, _ = np.histogram(report.samples_ms, bins)
    axes.stairs(counts, bins, fill=True, color=color, alpha=0.28, linewidth=0)
    axes.stairs(counts, bins, color=color, linewidth=1.2)
    top = 1.32 * max(1, int(counts.max()))
    axes.set_ylim(0, top)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title(name, color=color, loc="left", pad=2)
    axes.axvline(summary.p50, 0, 0.8, color=role_color("ink"), linewidth=1.2)
    if summary.p99 <= bins[-1]:
        axes.axvline(summary.p99, 0, 0.4, color=role_color("ink"), linewidth=1, linestyle=":")
    is_right = summary.p50 > (bins[0] + bins[-1]) / 2
    axes.annotate(
        f"{significant(summary.p50)} ms",
        (summary.p50, 0.83 * top),
        xytext=(0, 1),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="bottom",
    )


def course_plot(reports: Sequence[LatencyReport]) -> Plot:
    """Return the median latency in the course of the run, with the middle 80 % shaded."""
    alt = (
        "Latency in the course of the run, one curve per precision; "
        "a level curve means steady conditions."
    )

    backends = list(dict.fromkeys(report.backend for report in reports))

    def paint(figure: Any, is_narrow: bool) -> None:
        axes = figure.subplots()
        for report in reports:
            color = format_color(report.precision)
            turns, low, middle, high = course(report.samples_ms)
            axes.fill_between(turns, low, high, color=color, alpha=0.2, linewidth=0)
            line = LINES[backends.index(report.backend) % len(LINES)]
            name = name_in(report, reports)
            axes.plot(turns, middle, color=color, linestyle=line, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("turn")
        axes.set_ylabel("ms")
        figure.legend(loc="outside upper left", ncols=min(3, len(reports)), frameon=False)

    return draw_plot("course", alt, paint, wide_height=250, narrow_height=250)


def course(samples_ms: Sequence[float]) -> tuple[Samples, Samples, Samples, Samples]:
    """Return turn, 10th percentile, median and 90th percentile of each group of samples.

    Each of the four is (groups,); a group is a stretch of neighbouring samples, in order.
    """
    groups = np.array_split(np.asarray(samples_ms), min(MAX_POINTS, len(samples_ms)))
    sizes = np.array([len(group) for group in groups])
    turns = np.cumsum(sizes) - (sizes - 1) / 2
    low, middle, high = np.array([np.percentile(group, (10, 50, 90)) for group in groups]).T
    return turns, low, middle, high
