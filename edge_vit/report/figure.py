"""A plot with its caption, and the table that says the same."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vit.report.grids import Grid
from edge_vit.report.svg import Plot


@dataclass(frozen=True)
class Figure:
    """What the page shows of one question: the plot for a glance, the table for the numbers."""

    title: str
    plot: Plot
    caption: str
    grid: Grid
