"""The calibration table seen block by block."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edge_vit.printable import natural_key
from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, count, listing, significant
from edge_vit.spec.table import CalibrationTable, SiteScales

KIND_ORDER = ("qkv", "proj", "fc1", "fc2")
"""The four linear layers of a block, in the order in which data passes them."""


@dataclass(frozen=True)
class NamedSite:
    """One linear layer: its name ``block3/fc1``, block ``block3``, kind ``fc1``, and scales."""

    name: str
    block: str
    kind: str
    scales: SiteScales


def sites_in_order(table: CalibrationTable) -> tuple[NamedSite, ...]:
    """Return the sites as data passes them: block 2 before block 10, qkv before proj."""
    sites = []
    for name, scales in table.sites.items():
        block, _, kind = name.rpartition("/")
        sites.append(NamedSite(name, block, kind, scales))
    return tuple(sorted(sites, key=lambda site: (natural_key(site.block), _kind_rank(site.kind))))


def by_block(sites: tuple[NamedSite, ...]) -> dict[str, tuple[NamedSite, ...]]:
    """Return the sites of each block, both in the order given."""
    blocks = dict.fromkeys(site.block for site in sites)
    return {block: tuple(s for s in sites if s.block == block) for block in blocks}


def kinds_of(sites: tuple[NamedSite, ...]) -> tuple[str, ...]:
    """Return the kinds that occur, in the order in which data passes them."""
    return tuple(sorted({site.kind for site in sites}, key=_kind_rank))


def precision_summary(sites: tuple[NamedSite, ...]) -> str:
    """Return in words how many layers have which precision, and why."""
    reasons = Counter((site.scales.precision, site.scales.reason) for site in sites)
    parts = [f"{number} {precision} ({reason})" for (precision, reason), number in reasons.items()]
    kept = sum(bool(site.scales.kept_channels) for site in sites)
    beside = f"; in {kept} of them some channels stay in floating point" if kept else ""
    return f"{count(len(sites), 'linear layer')}: {listing(parts)}{beside}"


def sites_grid(sites: tuple[NamedSite, ...]) -> Grid:
    """Return one row per linear layer: its precision, why, and the range it is quantized to."""
    rows = tuple(
        (
            site.name,
            site.scales.precision,
            site.scales.reason,
            significant(site.scales.activation_amax),
            significant(site.scales.activation_scale),
            significant(site.scales.activation_crest),
            significant(max(site.scales.weight_scales, default=None)),
        )
        for site in sites
    )
    columns = ("layer", "precision", "why", "amax", "scale", "crest", "largest weight scale")
    return Grid("Linear layers", columns, rows, 3)


def blocks_grid(sites: tuple[NamedSite, ...]) -> Grid:
    """Return one row per block: how many of its layers are INT8, and their extremes."""
    rows = []
    for block, members in by_block(sites).items():
        scales = [site.scales for site in members]
        num_int8 = sum(s.is_quantized for s in scales)
        kept = [f"{s.kind}: {s.scales.reason}" for s in members if not s.scales.is_quantized]
        rows.append(
            (
                block,
                f"{num_int8} of {len(members)}",
                "; ".join(kept) or MISSING,
                significant(max(s.activation_amax for s in scales)),
                significant(max(s.activation_scale for s in scales)),
                significant(max(s.activation_crest for s in scales)),
            )
        )
    columns = (
        *("block", "quantized", "kept in floating point", "largest amax"),
        *("largest scale", "largest crest"),
    )
    return Grid("Linear layers by block", columns, tuple(rows), 3)


def _kind_rank(kind: str) -> tuple[int, str]:
    known = KIND_ORDER.index(kind) if kind in KIND_ORDER else len(KIND_ORDER)
    return known, kind
