"""Reports side by side as tables and words, and as a plot of accuracy over latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_vit.formats import look_of
from edge_vit.measure.compare import Comparison
from edge_vit.report.grids import Grid
from edge_vit.report.svg import WIDTH, annotate, draw_plot, format_color, open_axes, role_color
from edge_vit.report.wording import MISSING, measured, number, percent, short_digest, significant

Point = tuple[float, float]

PARETO_HEIGHT = 330


def letters(comparison: Comparison) -> dict[str, str]:
    """Return a short sign for each report, in their order: A, B, C…; A1 and so on after Z."""
    names = dict.fromkeys(entry.report for entry in comparison.entries)
    signs = (f"{chr(65 + i % 26)}{i // 26 or ''}" for i in range(len(names)))
    return dict(zip(names, signs, strict=True))


def all_grids(comparison: Comparison) -> list[Grid]:
    """Return every table that has something to say, in the order of reading."""
    return [grid for grid in named_grids(comparison).values() if grid.rows]


def named_grids(comparison: Comparison) -> dict[str, Grid]:
    """Return every table by its name in the page's template."""
    signs = letters(comparison)
    return {
        "reports": _reports_grid(comparison, signs),
        "entries": _entries_grid(comparison, signs),
        "changes": _changes_grid(comparison, signs),
        "conditions": conditions_grid(comparison),
    }


def _reports_grid(comparison: Comparison, signs: dict[str, str]) -> Grid:
    first = {entry.report: entry for entry in reversed(comparison.entries)}
    rows = tuple(
        (sign, name, first[name].model or MISSING, short_digest(first[name].bundle_digest) or "–")
        for name, sign in signs.items()
    )
    return Grid("Reports", ("", "report", "model", "bundle"), rows, 4)


def _entries_grid(comparison: Comparison, signs: dict[str, str]) -> Grid:
    rows = tuple(
        (
            signs[entry.report],
            entry.place,
            significant(entry.p50_ms),
            significant(entry.p99_ms),
            number(entry.throughput_ips, 1),
            percent(entry.top1),
            percent(entry.agreement),
            number(entry.num_runs, 0),
            number(entry.num_images, 0),
        )
        for entry in comparison.entries
    )
    columns = (
        *("", "ran", "p50 (ms)", "p99 (ms)", "images/s", "top-1", "same answer"),
        *("runs", "images"),
    )
    return Grid("Measured", columns, rows, 2)


def _changes_grid(comparison: Comparison, signs: dict[str, str]) -> Grid:
    rows = tuple(
        (
            signs[change.report],
            change.place,
            change.measure,
            change.difference or "not comparable",
            measured(change.value),
            MISSING
            if change.low is None or change.high is None
            else f"{measured(change.low)} – {measured(change.high)}",
            "; ".join(change.unlike) or MISSING,
        )
        for change in comparison.changes
    )
    columns = (
        *("", "ran", "measure", "against A", "ratio, points lost", "95 % interval"),
        "what differs",
    )
    note = (
        "Latency: the median over that of A, and the interval that the noise inside both runs "
        "allows. Accuracy: points lost against A on the same images, for the worst case of which "
        "images they are. Conditions that differ allow no number."
    )
    return Grid("Against A", columns, rows, 4, note)


def conditions_grid(comparison: Comparison) -> Grid:
    """Return the conditions that are not alike everywhere, one row each, one column per report."""
    signs = letters(comparison)
    values: dict[str, dict[str, dict[str, None]]] = {}
    for entry in comparison.entries:
        for name, value in (*entry.conditions.items(), *entry.data.items()):
            values.setdefault(name, {}).setdefault(entry.report, {})[value] = None
    rows = tuple(
        (name.replace("_", " "), *(", ".join(by.get(report, [MISSING])) for report in signs))
        for name, by in values.items()
        if len({tuple(by.get(report, ())) for report in signs}) > 1
    )
    return Grid("Conditions that differ", ("", *signs.values()), rows, 1 + len(signs))


def pareto_plot(comparison: Comparison) -> str | None:
    """Return accuracy over latency, one point per entry; None where no entry has both.

    Accuracy is top-1 where every entry that has an accuracy has one, else the agreement with fp32.
    """
    judged = [e for e in comparison.entries if e.agreement is not None and e.p50_ms]
    if not judged:
        return None
    axis = "same answer as fp32"
    if all(entry.top1 is not None for entry in judged):
        axis = "top-1"
    shares = [entry.top1 if axis == "top-1" else entry.agreement for entry in judged]
    pairs = zip(judged, shares, strict=True)
    points = [(entry.p50_ms or 0.0, 100 * (share or 0.0)) for entry, share in pairs]
    signs = letters(comparison)
    told = [
        f"{signs[e.report]} {e.place} {significant(ms)} ms, {share:.2f} %"
        for e, (ms, share) in zip(judged, points, strict=True)
    ]

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        steps = [points[i] for i in front_of(points)]
        if len(steps) > 1:
            color, line = role_color("muted"), (0, (3, 2))
            axes.step(*zip(*steps, strict=True), where="post", color=color, lw=1, linestyle=line)
        names = [f"{signs[e.report]} {e.place}" for e in judged]
        right = 1.15 * max(ms for ms, _ in points)
        shown = [share for _, share in points]
        margin = 0.3 * (max(shown) - min(shown)) or 1.0
        low, high = min(shown) - margin, max(shown) + margin
        width, height = WIDTH - 70, PARETO_HEIGHT - 90  # within the axes
        places = [(width * ms / right, height * (s - low) / (high - low)) for ms, s in points]
        heights = label_heights(places, names)
        for entry, name, (ms, share), up in zip(judged, names, points, heights, strict=True):
            color = format_color(entry.precision)
            axes.plot(ms, share, look_of(entry.precision).marker, color=color, markersize=8)
            annotate(axes, name, ms, share, up=up, va="center", color=color)
        axes.set_xlim(0, right)
        axes.set_ylim(low, high)
        axes.set_xlabel("median latency (ms)")
        axes.set_title(f"{axis} (%)")
        open_axes(axes, "x")
        axes.grid(axis="both")

    alt = f"{axis} over median latency: {'; '.join(told)}."
    return draw_plot("pareto", alt, paint, PARETO_HEIGHT)


def front_of(points: Sequence[Point]) -> list[int]:
    """Return which points no other beats, by latency and accuracy, fastest first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def label_heights(places: Sequence[Point], names: Sequence[str]) -> list[int]:
    """Return how far above its point (below, where negative) each label is free of the others."""
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
