"""Where the precision went: ranges, what each layer costs, what the recipe did."""

from __future__ import annotations

import re
from collections import Counter

from edge_vit.report.figure import Figure
from edge_vit.report.grids import Grid
from edge_vit.report.range_plots import HIGH_CREST, ranges_plot
from edge_vit.report.sites import NamedSite, precision_summary, sites_grid, sites_in_order
from edge_vit.report.sqnr_plots import fallback_plot, site_sqnr, sqnr_plot
from edge_vit.report.wording import MISSING, count, number, percent, significant
from edge_vit.spec.table import CalibrationTable


def precision_figures(table: CalibrationTable) -> tuple[Figure, ...]:
    """Return the plots of a table that has sites, each with its own table."""
    sites = sites_in_order(table)
    figures = [_ranges(table, sites)]
    cost = sqnr_plot(sites)
    if cost is not None:
        foreseen = "" if table.sqnr is None else f" All together: {number(table.sqnr, 1)} dB."
        caption = (
            "SQNR of the model's output with this layer alone in INT8: the lower, the more it "
            f"costs. Errors of layers add up in energy.{foreseen}"
        )
        figures.append(Figure("What each layer costs", cost, caption, ablation_grid(table)))
    curve = fallback_plot(table)
    if curve is not None:
        caption = (
            "Foreseen for the output if the costliest layers stay in FP16, one more at each point."
        )
        figures.append(Figure("What more FP16 would bring", curve, caption, fallback_grid(table)))
    return tuple(figures)


def _ranges(table: CalibrationTable, sites: tuple[NamedSite, ...]) -> Figure:
    caption = (
        f"{precision_summary(sites)}. Ranges by recipe {table.recipe.name} from "
        f"{count(table.num_images, 'image')}. amax: largest absolute value at the layer's input. "
        f"crest: amax / rms; above {HIGH_CREST} (dashed) INT8 levels are mostly spent on outliers. "
        "LayerNorm, softmax, residual additions, patch embedding and head stay in floating point."
    )
    return Figure("Ranges by block", ranges_plot(sites), caption, sites_grid(sites))


def ablation_grid(table: CalibrationTable) -> Grid:
    """Return what the recipe did to each layer, and what is left of its error."""
    total = sum(s.output_error for s in table.sites.values() if s.is_quantized)
    rows = tuple(
        (
            site.name,
            site.scales.precision,
            ", ".join(site.scales.steps) or MISSING,
            number(site_sqnr(site.scales), 1),
            percent(site.scales.output_error / total, 1)
            if total and site.scales.is_quantized
            else MISSING,
        )
        for site in sites_in_order(table)
    )
    columns = ("layer", "precision", "done to it", "output SQNR alone (dB)", "of all error")
    return Grid("What each layer costs", columns, rows, 3)


def recipe_grid(table: CalibrationTable) -> Grid:
    """Return how many layers each step of the recipe was taken for: what it was good for here."""
    taken = Counter(_name_of(step) for s in table.sites.values() for step in s.steps)
    errors: dict[str, list[float]] = {}
    for scales in table.sites.values():
        for name in {_name_of(step) for step in scales.steps}:
            errors.setdefault(name, []).append(scales.output_error)
    before = (name for name in taken if name not in table.recipe.steps)
    names = dict.fromkeys((*before, *table.recipe.steps))
    rows = tuple(
        (
            name,
            f"{taken[name]} of {len(table.sites)}",
            significant(max(errors.get(name, ()), default=None)),
        )
        for name in names
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


def fallback_grid(table: CalibrationTable) -> Grid:
    """Return the curve as a table: the layer that goes to FP16 at each point."""
    rows = tuple(
        (point.site, percent(point.share, 1), number(point.sqnr, 1)) for point in table.fallback
    )
    return Grid("What more FP16 would bring", ("layer", "work in FP16", "foreseen SQNR (dB)"), rows)
