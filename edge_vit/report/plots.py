"""The plots of a verdict: rates and gates with their limits, and latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.formats import look_of
from edge_vit.measure.results import AccuracyReport, Gate, LatencyReport
from edge_vit.measure.statistics import wilson_interval
from edge_vit.report.grids import is_reference, name_in, place_of
from edge_vit.report.svg import annotate, draw_plot, format_color, open_axes, role_color
from edge_vit.report.wording import count, is_known, listing, measured, percent, significant

GATE_AXES = {
    "max-drop": "points lost",
    "max-error": "% of the spread of fp32's scores",
    "min-agreement": "% of images with the same answer",
    "min-sqnr": "dB",
    "min-speedup": "times as fast",
    "max-p99-ms": "ms",
    "baseline-speed": "times as slow as the earlier report",
    "baseline-accuracy": "points lost against the earlier report",
}

NUM_BINS = 90
DRAWN_SHARE, DRAWN_MEDIANS = 99, 4
"""Samples are drawn up to this percentile and so many medians: a few stragglers would flatten all
the rest, and on a busy machine even p99 lies far out."""

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """A share of images with its 95 % Wilson interval, each from 0 to 1, of a precision."""

    name: str
    value: float
    low: float
    high: float

    @property
    def precision(self) -> str:
        """The precision without its backend, which chooses colour and shape."""
        return self.name.partition(" ")[0]


def _rate(name: str, value: float, num_images: int) -> Rate:
    return Rate(name, value, *wilson_interval(round(value * num_images), num_images))


def accuracy_panels(reports: Sequence[AccuracyReport]) -> dict[str, tuple[Rate, ...]]:
    """Return the rates of each panel by its title: top-1 where there are labels, agreement."""
    panels: dict[str, tuple[Rate, ...]] = {}
    others = [(name_in(r, reports), r) for r in reports if not is_reference(r)]
    first, reference = reports[0], reports[0].reference.partition(" ")[0]
    top1 = [(reference, first.reference_top1, first.num_labelled)]
    top1 += [(name, r.top1, r.num_labelled) for name, r in others]
    rates = tuple(_rate(name, value, n) for name, value, n in top1 if value is not None)
    if rates:
        panels["top-1"] = rates
    if others:
        panels[f"same answer as {reference}"] = tuple(
            _rate(name, r.agreement, r.num_images) for name, r in others
        )
    return panels


def accuracy_plot(reports: Sequence[AccuracyReport]) -> str:
    """Return each precision's top-1 and agreement as a dot in its 95 % interval."""
    panels = accuracy_panels(reports)
    parts = [
        f"{title}: {listing([f'{rate.name} {percent(rate.value)}' for rate in rates])}"
        for title, rates in panels.items()
    ]
    alt = f"Rates with their 95 % intervals. {'; '.join(parts)}."

    def paint(figure: Any) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, (title, rates) in zip(grid.flat, panels.items(), strict=True):
            _paint_rates(axes, title, rates)

    height = 76 + 40 * max(len(rates) for rates in panels.values())
    return draw_plot("accuracy", alt, paint, height)


def _paint_rates(axes: Any, title: str, rates: Sequence[Rate]) -> None:
    for row, rate in enumerate(rates):
        value, low, high = 100 * rate.value, 100 * rate.low, 100 * rate.high
        _paint_interval(axes, rate.precision, row, value, low, high)
        annotate(axes, percent(rate.value), value, row, ha="right" if value == 100 else "center")
    axes.set_yticks(range(len(rates)), [rate.name for rate in rates])
    for label, rate in zip(axes.get_yticklabels(), rates, strict=True):
        label.set_color(format_color(rate.precision))
    axes.set_ylim(len(rates) - 0.5, -0.75)
    lowest, highest = 100 * min(r.low for r in rates), 100 * max(r.high for r in rates)
    margin = max(0.15, 0.12 * (100 - lowest))
    if highest < 90:  # far from 100 there is nothing to see
        margin = max(0.5, 0.3 * (highest - lowest))
        axes.set_xlim(max(0.0, lowest - margin), min(100.0, highest + margin))
    else:
        axes.set_xlim(max(-1.0, lowest - margin), 100 + 0.04 * (100 - lowest + margin))
    axes.set_title(title)
    axes.set_xlabel("% of images")
    open_axes(axes, "x")


def gates_plot(gates: Sequence[Gate]) -> str:
    """Return the value and bounds of each gate that has one, against its limit."""
    parts = [
        f"{place_of(g)} {g.name} {measured(g.value)}, limit {measured(g.limit)}" for g in gates
    ]
    alt = f"{count(len(gates), 'gate')}: {'; '.join(parts)}."
    num_rows = math.ceil(len(gates) / 2)

    def paint(figure: Any) -> None:
        panels = figure.subplots(num_rows, 2, squeeze=False).flat
        for axes, gate in zip(panels, gates, strict=False):
            _paint_gate(axes, gate)
        for axes in panels[len(gates) :]:
            axes.set_visible(False)

    return draw_plot("gates", alt, paint, 130 * num_rows)


def _paint_gate(axes: Any, gate: Gate) -> None:
    assert gate.value is not None
    low = gate.low if is_known(gate.low) else gate.value
    high = gate.high if is_known(gate.high) else gate.value
    ends = (low, high, gate.value, gate.limit)
    margin = 0.18 * (max(ends) - min(ends)) or 0.5
    left, right = min(ends) - margin, max(ends) + margin
    allowed = (gate.limit, right) if gate.name.startswith("min-") else (left, gate.limit)
    axes.axvspan(*allowed, color=role_color("pass"), alpha=0.12, linewidth=0)
    axes.axvline(gate.limit, color=role_color("ink"), linewidth=1.2, linestyle=(0, (3, 2)))
    _paint_interval(axes, gate.precision, 0, gate.value, low, high)
    annotate(axes, measured(gate.value), gate.value, 0)
    axes.set_xlim(left, right)
    axes.set_ylim(-0.6, 1)
    axes.set_yticks([])
    axes.set_title(f"{place_of(gate)}: {gate.name} {measured(gate.limit)}")
    axes.set_xlabel(GATE_AXES.get(gate.name, gate.name))
    open_axes(axes, "x")


def _paint_interval(
    axes: Any, precision: str, row: int, value: float, low: float, high: float
) -> None:
    color = format_color(precision)
    axes.hlines(row, low, high, color=color, linewidth=5, alpha=0.3)
    axes.plot(value, row, look_of(precision).marker, color=color, markersize=8)


def distribution_plot(reports: Sequence[LatencyReport]) -> str:
    """Return one histogram per precision, below each other on one axis in milliseconds."""
    medians = [f"{name_in(r, reports)} {significant(r.latency_ms.p50)} ms" for r in reports]
    alt = f"Histograms of the latency of each precision. Medians: {listing(medians)}."
    low, high = drawn_range(reports)
    bins = np.linspace(low, high, NUM_BINS + 1)

    def paint(figure: Any) -> None:
        rows = figure.subplots(len(reports), sharex=True, squeeze=False)[:, 0]
        for axes, report in zip(rows, reports, strict=True):
            _paint_histogram(axes, report, bins, name_in(report, reports))
        for axes in rows[:-1]:
            axes.tick_params(axis="x", length=0)
        rows[-1].set_xlabel("latency of one run (ms)")
        rows[-1].set_xlim(low, high)

    return draw_plot("distribution", alt, paint, 60 + 92 * len(reports))


def drawn_range(reports: Sequence[LatencyReport]) -> tuple[float, float]:
    """Return the milliseconds between which the distributions are drawn."""
    samples = [np.asarray(report.samples_ms) for report in reports]
    low = float(min(each.min() for each in samples))
    high = float(
        max(
            min(np.percentile(each, DRAWN_SHARE), DRAWN_MEDIANS * np.median(each))
            for each in samples
        )
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
    side = "right" if summary.p50 > (bins[0] + bins[-1]) / 2 else "left"
    annotate(axes, f"{significant(summary.p50)} ms", summary.p50, 0.83 * top, up=1, ha=side)
