"""Where the ranges are wide: what every linear layer has to squeeze into 255 levels."""

from __future__ import annotations

from typing import Any

from edge_vit.formats import all_formats
from edge_vit.optional import require
from edge_vit.report.sites import NamedSite, by_block, kinds_of
from edge_vit.report.svg import PURPOSE, Plot, draw_plot, format_color, role_color
from edge_vit.report.wording import significant

HIGH_CREST = 50
"""Above it INT8 levels are mostly spent on outliers."""

_MEASURES = (("activation_amax", "amax"), ("activation_crest", "crest"))


def ranges_plot(sites: tuple[NamedSite, ...]) -> Plot:
    """Return amax and crest of every layer's input, by block, one panel per kind of layer."""
    kinds = kinds_of(sites)
    blocks = {block: i for i, block in enumerate(by_block(sites))}
    widest = max(sites, key=lambda site: site.scales.activation_amax)
    peaky = max(sites, key=lambda site: site.scales.activation_crest)
    alt = (
        f"Largest absolute value and crest factor of the input of {len(sites)} linear layers, by "
        f"block. Widest: {widest.name}, {significant(widest.scales.activation_amax)}; highest "
        f"crest: {peaky.name}, {significant(peaky.scales.activation_crest)}."
    )

    def paint(figure: Any, is_narrow: bool) -> None:
        shape = (len(kinds), 2) if is_narrow else (2, len(kinds))
        grid = figure.subplots(
            *shape, sharex=True, sharey="col" if is_narrow else "row", squeeze=False
        )
        panels = grid if is_narrow else grid.T
        for kind, pair in zip(kinds, panels, strict=True):
            members = tuple(site for site in sites if site.kind == kind)
            for axes, (attribute, label) in zip(pair, _MEASURES, strict=True):
                _paint_panel(axes, members, blocks, attribute)
                if label == "crest":
                    axes.axhline(
                        HIGH_CREST, color=role_color("muted"), linewidth=1, linestyle=(0, (3, 2))
                    )
                if is_narrow or axes is pair[0]:
                    axes.set_title(f"{kind}: {label}" if is_narrow else kind)
                if not is_narrow and kind == kinds[0]:
                    axes.set_ylabel(label)
        for axes in grid[-1]:
            axes.set_xlabel("block")
        entries = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries, loc="outside upper left", ncols=2, frameon=False)

    return draw_plot("ranges", alt, paint, wide_height=380, narrow_height=50 + 130 * len(kinds))


def _paint_panel(
    axes: Any, sites: tuple[NamedSite, ...], blocks: dict[str, int], attribute: str
) -> None:
    for precision, marker in ((each.name, each.look.marker) for each in all_formats()):
        chosen = [site for site in sites if site.scales.precision == precision]
        if chosen:
            turns = [blocks[site.block] for site in chosen]
            values = [getattr(site.scales, attribute) for site in chosen]
            color = format_color(precision)
            axes.plot(turns, values, marker, color=color, markersize=5, label=precision)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_ticks().LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(_ticks().NullLocator())
    rest_axes(axes)
    axes.set_xlim(-0.5, len(blocks) - 0.5)


def rest_axes(axes: Any) -> None:
    """Leave of `axes` what a value per block needs."""
    axes.xaxis.set_major_locator(_ticks().MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _ticks() -> Any:
    return require("matplotlib.ticker", PURPOSE)
