"""Are the answers still the same: rates with their intervals, and gates with their limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_vit.formats import look_of
from edge_vit.measure.results import AccuracyReport, Gate
from edge_vit.measure.statistics import wilson_interval
from edge_vit.report.grids import is_reference, name_in, place_of
from edge_vit.report.svg import Plot, draw_plot, format_color, role_color
from edge_vit.report.wording import count, is_known, listing, measured, percent

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


@dataclass(frozen=True)
class Rate:
    """A share of images with its 95 % Wilson interval, each from 0 to 1.

    Attributes:
        name: what it is of: a precision, with its backend where there are several.
    """

    name: str
    value: float
    low: float
    high: float

    @property
    def precision(self) -> str:
        """The precision alone, which chooses colour and shape."""
        return self.name.partition(" ")[0]


def make_rate(name: str, value: float, num_images: int) -> Rate:
    """Return the share `value` of `num_images` with its interval."""
    low, high = wilson_interval(round(value * num_images), num_images)
    return Rate(name, value, low, high)


def accuracy_panels(reports: Sequence[AccuracyReport]) -> dict[str, tuple[Rate, ...]]:
    """Return the rates of each panel by its title: top-1 where there are labels, agreement."""
    panels: dict[str, tuple[Rate, ...]] = {}
    others = [report for report in reports if not is_reference(report)]
    top1: list[tuple[str, float | None, int]]
    top1 = [(name_in(r, reports), r.top1, r.num_labelled) for r in others]
    first, reference = reports[0], reports[0].reference.partition(" ")[0]
    top1.insert(0, (reference, first.reference_top1, first.num_labelled))
    rates = tuple(make_rate(name, value, n) for name, value, n in top1 if value is not None)
    if rates:
        panels["top-1"] = rates
    if others:
        agreement = tuple(make_rate(name_in(r, reports), r.agreement, r.num_images) for r in others)
        panels[f"same answer as {reference}"] = agreement
    return panels


def accuracy_plot(reports: Sequence[AccuracyReport]) -> Plot:
    """Return each precision's top-1 and agreement as a dot in its 95 % interval."""
    panels = accuracy_panels(reports)
    parts = [
        f"{title}: {listing([f'{rate.name} {percent(rate.value)}' for rate in rates])}"
        for title, rates in panels.items()
    ]
    alt = f"Rates with their 95 % intervals. {'; '.join(parts)}."
    num_rows = max(len(rates) for rates in panels.values())

    def paint(figure: Any, is_narrow: bool) -> None:
        shape = (len(panels), 1) if is_narrow else (1, len(panels))
        grid = figure.subplots(*shape, squeeze=False)
        for axes, (title, rates) in zip(grid.flat, panels.items(), strict=True):
            _paint_rates(axes, title, rates)

    height = 76 + 40 * num_rows
    return draw_plot("accuracy", alt, paint, wide_height=height, narrow_height=height * len(panels))


def _paint_rates(axes: Any, title: str, rates: Sequence[Rate]) -> None:
    for row, rate in enumerate(rates):
        color = format_color(rate.precision)
        value, low, high = 100 * rate.value, 100 * rate.low, 100 * rate.high
        axes.hlines(row, low, high, color=color, linewidth=5, alpha=0.3)
        axes.plot(value, row, look_of(rate.precision).marker, color=color, markersize=8)
        axes.annotate(
            percent(rate.value),
            (value, row),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right" if rate.value == 1 else "center",
            va="bottom",
        )
    axes.set_yticks(range(len(rates)), [rate.name for rate in rates])
    for label, rate in zip(axes.get_yticklabels(), rates, strict=True):
        label.set_color(format_color(rate.precision))
    axes.set_ylim(len(rates) - 0.5, -0.75)
    lowest = min(100 * rate.low for rate in rates)
    margin = max(0.15, 0.12 * (100 - lowest))
    highest = max(100 * rate.high for rate in rates)
    if highest < 90:  # far from 100 there is nothing to see
        margin = max(0.5, 0.3 * (highest - lowest))
        axes.set_xlim(max(0.0, lowest - margin), min(100.0, highest + margin))
    else:
        axes.set_xlim(max(-1.0, lowest - margin), 100 + 0.04 * (100 - lowest + margin))
    axes.set_title(title)
    axes.set_xlabel("% of images")
    _rest(axes)


def gates_plot(gates: Sequence[Gate]) -> Plot:
    """Return each gate's value and bounds against its limit, the allowed side shaded.

    Args:
        gates: that have a value.
    """
    parts = [
        f"{place_of(g)} {g.name} {measured(g.value)}, limit {measured(g.limit)}" for g in gates
    ]
    alt = f"{count(len(gates), 'gate')}: {'; '.join(parts)}."
    num_rows = math.ceil(len(gates) / 2)

    def paint(figure: Any, is_narrow: bool) -> None:
        shape = (len(gates), 1) if is_narrow else (num_rows, 2)
        panels = figure.subplots(*shape, squeeze=False).flat
        for axes, gate in zip(panels, gates, strict=False):
            _paint_gate(axes, gate)
        for axes in panels[len(gates) :]:
            axes.set_visible(False)

    return draw_plot(
        "gates", alt, paint, wide_height=130 * num_rows, narrow_height=124 * len(gates)
    )


def _paint_gate(axes: Any, gate: Gate) -> None:
    color = format_color(gate.precision)
    assert gate.value is not None
    low = gate.low if is_known(gate.low) else gate.value
    high = gate.high if is_known(gate.high) else gate.value
    ends = (low, high, gate.value, gate.limit)
    margin = 0.18 * (max(ends) - min(ends)) or 0.5
    left, right = min(ends) - margin, max(ends) + margin
    allowed = (gate.limit, right) if gate.name.startswith("min-") else (left, gate.limit)
    axes.axvspan(*allowed, color=role_color("pass"), alpha=0.12, linewidth=0)
    axes.axvline(gate.limit, color=role_color("ink"), linewidth=1.2, linestyle=(0, (3, 2)))
    axes.hlines(0, low, high, color=color, linewidth=5, alpha=0.35)
    axes.plot(gate.value, 0, look_of(gate.precision).marker, color=color, markersize=8)
    axes.annotate(
        measured(gate.value),
        (gate.value, 0),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        va="bottom",
    )
    axes.set_xlim(left, right)
    axes.set_ylim(-0.6, 1)
    axes.set_yticks([])
    axes.set_title(f"{place_of(gate)}: {gate.name} {measured(gate.limit)}")
    axes.set_xlabel(GATE_AXES.get(gate.name, gate.name))
    _rest(axes)


def _rest(axes: Any) -> None:
    """Take away what carries no information."""
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.locator_params(axis="x", nbins=5)
