"""Which layers stay in FP16: those that cost the output most per multiply-add they save."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_vit.spec.table import FallbackPoint, sqnr_of

ENOUGH, ENOUGH_WORST = 40.0, 35.0
"""In dB, of all images and of the worst: from there on the predictions of the models measured stay,
and a layer in FP16 costs time for an accuracy that changes none (docs/accuracy.md)."""


def rank_fallback(
    errors: Mapping[str, float], multiply_adds: Mapping[str, float], max_share: float = 1.0
) -> tuple[FallbackPoint, ...]:
    """Return the layers, the one first whose FP16 buys most accuracy per multiply-add.

    Those that do not fit into `max_share` any more come behind all that do.

    Errors of the layers are small and independent, so that their energies add up at the output:
    what remains after each step of the ranking is the sum over the layers that are left.

    `errors`: `SiteScales.output_error` of each layer quantized alone. `multiply_adds`: of each
    layer, in any unit.
    """
    total = sum(multiply_adds.values())
    by_worth = sorted(errors, key=lambda name: (-errors[name] / multiply_adds[name], name))
    fitting: list[str] = []
    for name in by_worth:
        if sum(multiply_adds[n] for n in (*fitting, name)) <= max_share * total:
            fitting.append(name)
    ranked = sorted(by_worth, key=lambda name: name not in fitting)  # stable
    curve = []
    for count, name in enumerate(ranked, 1):
        left = math.fsum(errors[other] for other in ranked[count:])
        share = sum(multiply_adds[other] for other in ranked[:count]) / total
        curve.append(FallbackPoint(name, share, sqnr_of(left)))
    return tuple(curve)


def choose_fallback(
    curve: tuple[FallbackPoint, ...], sqnr: float, min_sqnr: float, max_share: float
) -> tuple[str, ...]:
    """Return the layers that stay in FP16, as few as bring the output to `min_sqnr`."""
    chosen: list[str] = []
    for point in curve:
        if sqnr >= min_sqnr or point.share > max_share:
            break
        chosen.append(point.site)
        sqnr = point.sqnr
    return tuple(chosen)


def sqnr_enough(sqnr: float, least: float, worst: float) -> float:
    """Return the SQNR, in dB, that leaves nothing for a layer in FP16 to be worth its time.

    Args:
        sqnr: of the plan, over all images.
        least: of the plan, what other images may show.
        worst: of the plan, the image that is off most.
    """
    return sqnr + max(ENOUGH - least, ENOUGH_WORST - worst)


def choose_worthy(
    curve: tuple[FallbackPoint, ...],
    sqnr: float,
    min_worth: float,
    max_share: float,
    most: float = math.inf,
) -> tuple[str, ...]:
    """Return the layers whose errors are out of all proportion to their work.

    They are as many as gain `min_worth` on average, in dB per 1 % of the work, each half as much at
    least: errors of single layers, from a few images, are too rough for one of them to end it. From
    `most` dB on none is added.
    """
    chosen, count, start = list[str](), 0, FallbackPoint("", 0.0, sqnr)
    before = start
    for point in curve:
        if before.sqnr >= most or point.share > max_share:
            break
        if _gain(before, point) < min_worth / 2:
            break
        chosen.append(point.site)
        if _gain(start, point) >= min_worth:
            count = len(chosen)
        before = point
    return tuple(chosen[:count])


def _gain(start: FallbackPoint, end: FallbackPoint) -> float:
    """Return what lies between two points, in dB per 1 % of the work."""
    percent = 100 * (end.share - start.share)
    return (end.sqnr - start.sqnr) / percent if percent > 0 else math.inf
