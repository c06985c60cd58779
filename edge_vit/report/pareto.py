"""Accuracy over latency: which precision on which backend is worth having at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_vit.formats import look_of
from edge_vit.measure.compare import Comparison, Entry
from edge_vit.report.compared import letters
from edge_vit.report.svg import Plot, draw_plot, format_color, role_color
from edge_vit.report.wording import percent, significant

Point = tuple[float, float]


def accuracy_of(entries: Sequence[Entry]) -> tuple[str, dict[int, float]]:
    """Return what stands on the vertical axis, and each entry's share, by its index.

    Top-1 where every entry that has an accuracy has one, else the agreement with fp32.
    """
    judged = {i: e for i, e in enumerate(entries) if e.agreement is not None and e.p50_ms}
    top1 = {i: e.top1 for i, e in judged.items() if e.top1 is not None}
    if judged and len(top1) == len(judged):
        return "top-1", top1
    return "same answer as fp32", {
        i: e.agreement for i, e in judged.items() if e.agreement is not None
    }


def front_of(points: Sequence[Point]) -> list[int]:
    """Return the points, fastest first, that no other beats: neither faster nor as accurate.

    Args:
        points: (milliseconds, share).
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def label_heights(places: Sequence[Point], names: Sequence[str]) -> list[int]:
    """Return how far above its point (or below, where negative) each label is free of the others.

    Args:
        places: of the points, in points of the plot.
        names: the labels, centred over them.
    """
    taken: list[tuple[float, float, float]] = []  # centre, height, half the width
    heights = []
    for (x, y), name in zip(places, names, strict=True):
        half = 3.2 * len(name) + 3
        options = [sign * (14 + 13 * level) for level in range(6) for sign in (1, -1)]
        free = (
            up
            for up in options
            if not any(
                abs(x - other_x) < half + other_half and abs(y + up - other_y) < 13
                for other_x, other_y, other_half in taken
            )
        )
        up = next(free, options[0])
        taken.append((x, y + up, half))
        heights.append(up)
    return heights


def pareto_plot(comparison: Comparison) -> Plot | None:
    """Return accuracy over latency, one point per entry; None where no entry has both."""
    entries = comparison.entries
    axis, shares = accuracy_of(entries)
    if not shares:
        return None
    signs = letters(comparison)
    chosen = [entries[i] for i in shares]
    points = [
        (entry.p50_ms or 0.0, share) for entry, share in zip(chosen, shares.values(), strict=True)
    ]
    front = front_of(points)
    told = [
        f"{signs[e.report]} {e.place} {significant(ms)} ms, {percent(share)}"
        for e, (ms, share) in zip(chosen, points, strict=True)
    ]
    alt = f"{axis} over median latency: {'; '.join(told)}."

    def paint(figure: Any, is_narrow: bool) -> None:
        axes = figure.subplots()
        steps = [points[i] for i in front]
        if len(steps) > 1:
            axes.step(
                [ms for ms, _ in steps],
                [100 * share for _, share in steps],
                where="post",
                color=role_color("muted"),
                linewidth=1,
                linestyle=(0, (3, 2)),
            )
        names = [f"{signs[e.report]} {e.precision if is_narrow else e.place}" for e in chosen]
        right = 1.15 * max(ms for ms, _ in points)
        shown = [100 * share for _, share in points]
        margin = 0.3 * (max(shown) - min(shown)) or 1.0
        low, high = min(shown) - margin, max(shown) + margin
        width, height = (290, 210) if is_narrow else (770, 240)
        places = [
            (width * ms / right, height * (100 * share - low) / (high - low))
            for ms, share in points
        ]
        heights = label_heights(places, names)
        for entry, name, (ms, share), up in zip(chosen, names, points, heights, strict=True):
            color = format_color(entry.precision)
            axes.plot(ms, 100 * share, look_of(entry.precision).marker, color=color, markersize=8)
            axes.annotate(
                name,
                (ms, 100 * share),
                xytext=(0, up),
                textcoords="offset points",
                ha="center",
                va="center",
                color=color,
            )
        axes.set_xlim(0, right)
        axes.set_ylim(low, high)
        axes.set_xlabel("median latency (ms)")
        axes.set_title(f"{axis} (%)")
        axes.grid(axis="both")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)

    return draw_plot("pareto", alt, paint, wide_height=330, narrow_height=300)
