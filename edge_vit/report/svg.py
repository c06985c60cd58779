"""Figures as inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from edge_vit.formats import Precision, all_formats, names_of
from edge_vit.optional import require
from edge_vit.report.grids import Grid

ROLES = ("ink", "muted", "grid", *names_of(all_formats()), "pass")
"""What is drawn, not how: the page's style sheet has a colour for each, by day and by night."""

PURPOSE = "writing the HTML report"

# Nearly black, each one different: matplotlib draws with them, `_clean` puts the roles back.
_STAND_INS = {role: f"#0000{i + 1:02x}" for i, role in enumerate(ROLES)}

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and is small
    "svg.hashsalt": "edge-vit",  # the same figure gives the same bytes
    "text.parse_math": False,  # a dollar sign in a layer's name is a dollar sign
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": _STAND_INS["muted"],
    "axes.edgecolor": _STAND_INS["grid"],
    "axes.titlecolor": _STAND_INS["ink"],
    "text.color": _STAND_INS["ink"],
    "xtick.color": _STAND_INS["grid"],
    "ytick.color": _STAND_INS["grid"],
    "xtick.labelcolor": _STAND_INS["muted"],
    "ytick.labelcolor": _STAND_INS["muted"],
    "grid.color": _STAND_INS["grid"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
}

Painter = Callable[[Any], None]  # draws into a matplotlib figure

WIDTH = 840  # of every plot, in pixels of the page


@dataclass(frozen=True)
class Figure:
    """A plot for a glance with its caption, and the table that says the same in numbers."""

    title: str
    plot: str
    caption: str
    grid: Grid


def role_color(role: str) -> str:
    """Return the colour to draw one of `ROLES` with."""
    return _STAND_INS[role]


def format_color(precision: Precision) -> str:
    """Return the colour of a number format; that of secondary text where it is not installed."""
    return _STAND_INS.get(precision, _STAND_INS["muted"])


def open_axes(axes: Any, across: str) -> None:
    """Take away what carries no information: `across`, x or y, is the axis of the values."""
    axes.grid(axis=across)
    axes.spines["left"].set_visible(False)
    if across == "x":
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=5)
    else:
        axes.tick_params(axis="y", length=0)


def block_axes(axes: Any) -> None:
    """As `open_axes`, of values over the blocks of a model."""
    ticks = require("matplotlib.ticker", PURPOSE)
    axes.xaxis.set_major_locator(ticks.MaxNLocator(integer=True, nbins=6))
    open_axes(axes, "y")


def annotate(axes: Any, words: str, x: float, y: float, *, up: int = 8, **options: Any) -> None:
    """Write `words` at a point, `up` points above it."""
    alignment = {"ha": "center", "va": "bottom"} | options
    axes.annotate(words, (x, y), xytext=(0, up), textcoords="offset points", **alignment)


def draw_plot(name: str, alt: str, paint: Painter, height: int) -> str:
    """Return what `paint` draws as an SVG element, `WIDTH` by `height` pixels.

    `name` begins every id in it, so that no two plots share one; `alt` says what the plot shows.
    """
    matplotlib = require("matplotlib", PURPOSE)
    figures = require("matplotlib.figure", PURPOSE)
    with matplotlib.rc_context(_SETTINGS):
        # The SVG backend counts 72 units to the inch.
        figure = figures.Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        figure.get_layout_engine().set(wspace=0.05, hspace=0.08)
        paint(figure)
        body = _clean(_save(figure), name)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label={quoteattr(alt)}>{body}</svg>'
    )


def _save(figure: Any) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():  # text stays text: the page's font has the glyph, or none has
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True)
    return buffer.getvalue()


def _clean(document: str, name: str) -> str:
    """Return what is inside matplotlib's root element, less all that a page does not need."""
    body = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    for element in ("metadata", "style"):
        body = re.sub(rf"<{element}\b.*?</{element}>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)  # until matplotlib 3.9
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for role, stand_in in _STAND_INS.items():
        body = body.replace(stand_in, f"var(--{role})")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    wanted = {first or second for first, second in used}

    def keep(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in wanted else ""

    body = re.sub(r'\sid="([^"]+)"', keep, body)
    body = re.sub(r'href="#|url\(#', lambda match: f"{match[0]}{name}-", body)
    return re.sub(r"\s*\n\s*", "\n", body).strip()
