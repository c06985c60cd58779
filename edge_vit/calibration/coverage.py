"""Whether other images stay within the ranges that calibration saw: beyond them INT8 clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.extremes import add_extremes, read_amax
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import Array
from edge_vit.lowering.calibrated import as_calibrated
from edge_vit.progress import Advance
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable

MAX_OVERSHOOT = 1.25
"""How far beyond the calibrated range an image may reach: new images always reach a little."""


@dataclass(frozen=True)
class Overshoot:
    """A layer whose input leaves the range that it was calibrated for.

    Attributes:
        site: the layer.
        ratio: largest |x| over the largest that calibration saw.
        num_images: in how many images it is beyond `MAX_OVERSHOOT`.
    """

    site: str
    ratio: float
    num_images: int


def find_overshoots(
    model: onnx.ModelProto,
    spec: ModelSpec,
    table: CalibrationTable,
    images: Iterable[Array],
    *,
    threads: int | None = None,
    advance: Advance = lambda count: None,
) -> tuple[Overshoot, ...]:
    """Return the INT8 layers that `images` drive beyond their ranges, the worst first.

    Args:
        model: the fp32 graph in canonical form.
        spec: its facts.
        table: how it was calibrated.
        images: uint8 (height, width, 3) RGB, as preprocessed; run one at a time.
        threads: of ONNX Runtime; None for all cores.
        advance: is told of each image.
    """
    model = as_calibrated(table, model)
    inputs = {
        site.name: site.linear.input.name or ""
        for site in find_sites(ir.from_proto(model).graph)
        if table.sites[site.name].is_quantized
    }
    names = list(dict.fromkeys(inputs.values()))
    own = len(model.graph.output)
    session = open_exact_session(add_extremes(model, names), threads)
    wanted = [output.name for output in session.get_outputs()][own:]
    ratios: dict[str, list[float]] = {site: [] for site in inputs}
    for image in images:
        outputs = session.run(wanted, feed_image(spec, image))
        amax = read_amax(names, outputs)
        for site, name in inputs.items():
            seen = table.sites[site].activation_amax
            ratios[site].append(amax[name] / seen if seen else float(amax[name] > 0) * np.inf)
        advance(1)
    found = [
        Overshoot(site, max(reached), sum(ratio > MAX_OVERSHOOT for ratio in reached))
        for site, reached in ratios.items()
        if reached and max(reached) > MAX_OVERSHOOT
    ]
    return tuple(sorted(found, key=lambda overshoot: -overshoot.ratio))


def say_overshoots(found: Sequence[Overshoot], num_images: int) -> tuple[str, ...]:
    """Return one sentence on what `find_overshoots` found in `num_images`, none for nothing."""
    if not found:
        return ()
    worst, others = found[0], len(found) - 1
    more = f"; so do {others} other layers" if others else ""
    return (
        f"Images leave the calibrated ranges, where INT8 clips: {worst.site} reaches "
        f"{worst.ratio:.2f} times what calibration saw, in {worst.num_images:,} of {num_images:,} "
        f"images looked at{more}. Run: edgevit calibrate, with images like these",
    )
