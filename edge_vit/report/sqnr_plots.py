"""What each layer in INT8 costs the model's output, and what more of them in FP16 would bring."""

from __future__ import annotations

import math
from typing import Any

from edge_vit.formats import all_formats, int8
from edge_vit.report.range_plots import rest_axes
from edge_vit.report.sites import NamedSite, by_block, kinds_of
from edge_vit.report.svg import Plot, draw_plot, format_color, role_color
from edge_vit.report.wording import number
from edge_vit.spec.table import CalibrationTable, SiteScales, sqnr_of


def site_sqnr(scales: SiteScales) -> float | None:
    """Return the SQNR in dB of the model's output with this layer alone in INT8, where known."""
    return sqnr_of(scales.output_error) if scales.output_error > 0 else None


def sqnr_plot(sites: tuple[NamedSite, ...]) -> Plot | None:
    """Return each layer's SQNR by block, one panel per kind; None where none was measured."""
    known = {site.name: value for site in sites if (value := site_sqnr(site.scales)) is not None}
    if not known:
        return None
    kinds = kinds_of(sites)
    blocks = {block: i for i, block in enumerate(by_block(sites))}
    worst = min(known, key=lambda name: known[name])
    alt = (
        f"SQNR of the model's output with one layer alone in INT8, for {len(known)} layers by "
        f"block. Costliest: {worst}, {number(known[worst], 1)} dB."
    )

    def paint(figure: Any, is_narrow: bool) -> None:
        shape = (2, math.ceil(len(kinds) / 2)) if is_narrow else (1, len(kinds))
        grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
        for axes, kind in zip(grid.flat, kinds, strict=False):
            for precision, marker in ((each.name, each.look.marker) for each in all_formats()):
                chosen = [
                    site
                    for site in sites
                    if (site.kind, site.scales.precision) == (kind, precision)
                    and site.name in known
                ]
                axes.plot(
                    [blocks[site.block] for site in chosen],
                    [known[site.name] for site in chosen],
                    marker,
                    color=format_color(precision),
                    markersize=5,
                )
            axes.set_title(kind)
            axes.set_xlim(-0.5, len(blocks) - 0.5)
            rest_axes(axes)
        for axes in grid[-1]:
            axes.set_xlabel("block")
        for row in grid:
            row[0].set_ylabel("dB")
        for axes in grid.flat[len(kinds) :]:
            axes.set_visible(False)

    return draw_plot("sqnr", alt, paint, wide_height=230, narrow_height=330)


def fallback_plot(table: CalibrationTable) -> Plot | None:
    """Return the foreseen SQNR over the share of the work in FP16; None where nobody measured."""
    if not table.fallback:
        return None
    shares = [0.0, *(100 * point.share for point in table.fallback)]
    all_int8 = sqnr_of(sum(scales.output_error for scales in table.sites.values()))
    values = [all_int8, *(point.sqnr for point in table.fallback)]
    drawn = [(share, value) for share, value in zip(shares, values, strict=True) if value < 150]
    if len(drawn) < 2:
        return None
    alt = (
        f"Foreseen SQNR of the output over the share of the multiply-adds in FP16: from "
        f"{number(drawn[0][1], 1)} dB with {number(drawn[0][0], 0)} % to "
        f"{number(drawn[-1][1], 1)} dB with {number(drawn[-1][0], 0)} %."
    )
    kept = sum(not site.is_quantized for site in table.sites.values())

    def paint(figure: Any, is_narrow: bool) -> None:
        axes = figure.subplots()
        axes.plot(
            *zip(*drawn, strict=True),
            color=format_color(int8.FORMAT.name),
            marker=".",
            markersize=5,
        )
        if kept < len(drawn):
            share, value = drawn[kept]
            axes.plot(share, value, "o", color=role_color("ink"), markersize=8)
            axes.annotate(
                "this bundle",
                (share, value),
                xytext=(9, -4),
                textcoords="offset points",
                va="top",
            )
        axes.set_xlabel("multiply-adds of the linear layers in FP16 (%)")
        axes.set_ylabel("dB")
        rest_axes(axes)

    return draw_plot("fallback", alt, paint, wide_height=240, narrow_height=240)
