"""Where the precision went: ranges, what each layer costs, what the recipe did."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from edge_vit.formats import all_formats
from edge_vit.optional import require
from edge_vit.report.grids import Grid
from edge_vit.report.sites import (
    NamedSite,
    by_block,
    kinds_of,
    precision_summary,
    sites_grid,
    sites_in_order,
)
from edge_vit.report.svg import PURPOSE, Figure, block_axes, draw_plot, format_color, role_color
from edge_vit.report.wording import MISSING, count, number, percent, significant
from edge_vit.spec.table import CalibrationTable, SiteScales, sqnr_of

HIGH_CREST = 50  # above it INT8 levels are mostly spent on outliers

Sites = tuple[NamedSite, ...]


def precision_figures(table: CalibrationTable) -> tuple[Figure, ...]:
    """Return the plots of a table that has sites, each with its own table."""
    sites = sites_in_order(table)
    caption = (
        f"{precision_summary(sites)}. Ranges by recipe {table.recipe.name} from "
        f"{count(table.num_images, 'image')}. amax: largest absolute value at the layer's input. "
        f"crest: amax / rms; above {HIGH_CREST} (dashed) INT8 levels are mostly spent on outliers. "
        "LayerNorm, softmax, residual additions, patch embedding and head stay in floating point."
    )
    figures = [Figure("Ranges by block", ranges_plot(sites), caption, sites_grid(sites))]
    cost = sqnr_plot(sites)
    if cost is not None:
        together = table.forecast_text
        all_together = f" All together: {together}." if together else ""
        caption = (
            "SQNR of the model's output with this layer alone in INT8: the lower, the more it "
            f"costs. Errors of layers add up in energy.{all_together}"
        )
        figures.append(Figure("What each layer costs", cost, caption, _ablation_grid(table)))
    return tuple(figures)


def recipe_grid(table: CalibrationTable) -> Grid:
    """Return how many layers each step of the recipe was taken for: what it was good for here."""
    taken = Counter(_name_of(step) for s in table.sites.values() for step in s.steps)
    errors: dict[str, list[float]] = {}
    for scales in table.sites.values():
        for name in {_name_of(step) for step in scales.steps}:
            errors.setdefault(name, []).append(scales.output_error)
    before = (name for name in taken if name not in table.recipe.steps)
    rows = tuple(
        (
            name,
            f"{taken[name]} of {len(table.sites)}",
            significant(max(errors.get(name, ()), default=None)),
        )
        for name in dict.fromkeys((*before, *table.recipe.steps))
    )
    columns = ("step", "layers that gained by it", "largest output error of those")
    note = (
        "A step is taken for a layer only where the model's output gains by it on held-out images; "
        '"here": where the layer\'s own does, and nothing can be lost by it.'
    )
    return Grid("What the recipe did", columns, rows, 1, note if table.recipe.is_judged else "")


def _name_of(step: str) -> str:
    """Return ``zero point`` of that and ``range`` of ``range 0.9 (+1.2 dB)``."""
    found = re.match("[a-z ]*[a-z]", step)
    return found[0] if found else step


def _ablation_grid(table: CalibrationTable) -> Grid:
    """What the recipe did to each layer, and what is left of its error."""
    total = sum(s.output_error for s in table.sites.values() if s.is_quantized)
    rows = tuple(
        (
            site.name,
            site.scales.precision,
            ", ".join(site.scales.steps) or MISSING,
            number(_site_sqnr(site.scales), 1),
            percent(site.scales.output_error / total, 1)
            if total and site.scales.is_quantized
            else MISSING,
        )
        for site in sites_in_order(table)
    )
    columns = ("layer", "precision", "done to it", "output SQNR alone (dB)", "of all error")
    return Grid("What each layer costs", columns, rows, 3)


def _site_sqnr(scales: SiteScales) -> float | None:
    """SQNR in dB of the model's output with this layer alone in INT8, where known."""
    return sqnr_of(scales.output_error) if scales.output_error > 0 else None


def ranges_plot(sites: Sites) -> str:
    """Return amax and crest of every layer's input, by block, one panel per kind of layer."""
    kinds = kinds_of(sites)
    widest = max(sites, key=lambda site: site.scales.activation_amax)
    peaky = max(sites, key=lambda site: site.scales.activation_crest)
    alt = (
        f"Largest absolute value and crest factor of the input of {len(sites)} linear layers, by "
        f"block. Widest: {widest.name}, {significant(widest.scales.activation_amax)}; highest "
        f"crest: {peaky.name}, {significant(peaky.scales.activation_crest)}."
    )
    amax = {site.name: site.scales.activation_amax for site in sites}
    crest = {site.name: site.scales.activation_crest for site in sites}

    def paint(figure: Any) -> None:
        ticks = require("matplotlib.ticker", PURPOSE)
        grid = figure.subplots(2, len(kinds), sharex=True, sharey="row", squeeze=False)
        for kind, pair in zip(kinds, grid.T, strict=True):
            for axes, label, values in zip(pair, ("amax", "crest"), (amax, crest), strict=True):
                _paint_sites(axes, sites, kind, values)
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(ticks.LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_locator(ticks.NullLocator())
                if values is crest:
                    axes.axhline(
                        HIGH_CREST, color=role_color("muted"), linewidth=1, linestyle=(0, (3, 2))
                    )
                if kind == kinds[0]:
                    axes.set_ylabel(label)
            pair[0].set_title(kind)
        for axes in grid[-1]:
            axes.set_xlabel("block")
        entries = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries, loc="outside upper left", ncols=2, frameon=False)

    return draw_plot("ranges", alt, paint, 380)


def sqnr_plot(sites: Sites) -> str | None:
    """Return each layer's SQNR by block, one panel per kind; None where none was measured."""
    known = {site.name: value for site in sites if (value := _site_sqnr(site.scales)) is not None}
    if not known:
        return None
    kinds = kinds_of(sites)
    worst = min(known, key=lambda name: known[name])
    alt = (
        f"SQNR of the model's output with one layer alone in INT8, for {len(known)} layers by "
        f"block. Costliest: {worst}, {number(known[worst], 1)} dB."
    )

    def paint(figure: Any) -> None:
        (panels,) = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)
        for axes, kind in zip(panels, kinds, strict=True):
            _paint_sites(axes, sites, kind, known)
            axes.set_title(kind)
            axes.set_xlabel("block")
        panels[0].set_ylabel("dB")

    return draw_plot("sqnr", alt, paint, 230)


def _paint_sites(axes: Any, sites: Sites, kind: str, values: dict[str, float]) -> None:
    blocks = {block: i for i, block in enumerate(by_block(sites))}
    members = [site for site in sites if site.kind == kind and site.name in values]
    for each in all_formats():
        chosen = [site for site in members if site.scales.precision == each.name]
        if chosen:
            turns = [blocks[site.block] for site in chosen]
            heights = [values[site.name] for site in chosen]
            color = format_color(each.name)
            axes.plot(turns, heights, each.look.marker, color=color, markersize=5, label=each.name)
    block_axes(axes)
    axes.set_xlim(-0.5, len(blocks) - 0.5)
