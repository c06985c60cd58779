"""Whether other images are like those calibrated on: in range, as bright, as colourful."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.data.perceptual import luma_and_colours, signature_from_text
from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import add_extremes, read_amax
from edge_vit.graph.large import Spill
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import Array
from edge_vit.lowering.rotation import as_calibrated
from edge_vit.progress import Advance
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable

MAX_OVERSHOOT = 1.25
"""How far beyond the calibrated range an image may reach: new images always reach a little."""


_FEWEST = 8  # calibration images whose looks say how others look
_TOLERANCE = 6  # levels of 255 that an image may lie beyond all of them
_MAX_UNLIKE = 0.25  # share of the images that may

_LOOKS = (
    ("brightness", "darker", "brighter"),
    ("contrast", "lower in contrast", "higher in contrast"),
    ("colourfulness", "less colourful", "more colourful"),
)


@dataclass(frozen=True)
class Overshoot:
    """A layer whose input leaves the range that it was calibrated for."""

    site: str  # the layer
    ratio: float  # largest |x| over the largest that calibration saw
    num_images: int  # in how many images it is beyond `MAX_OVERSHOOT`


def find_overshoots(
    model: onnx.ModelProto,
    spec: ModelSpec,
    table: CalibrationTable,
    images: Iterable[Array],
    *,
    threads: int | None = None,
    advance: Advance = lambda count: None,
) -> tuple[Overshoot, ...]:
    """Return the INT8 layers that `images` drive beyond their ranges, the worst first."""
    spill = Spill()
    model = as_calibrated(table, model, spill)
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


def say_unlike(calibrated: Iterable[str], signatures: Sequence[bytes]) -> tuple[str, ...]:
    """Return a sentence for each look in which many images lie beyond all calibration images.

    Images of a night or of an infrared camera stay within the ranges, and INT8 was not made for
    them all the same.

    Args:
        calibrated: `CalibrationTable.image_signatures`.
        signatures: `edge_vit.data.perceptual.signature` of the other images.
    """
    known = np.array([_looks(signature_from_text(text)) for text in calibrated])
    if len(known) < _FEWEST or not signatures:
        return ()
    met, said = np.array([_looks(each) for each in signatures]), []
    for index, (name, less, more) in enumerate(_LOOKS):
        low, high = known[:, index].min(), known[:, index].max()
        values = met[:, index]
        for word, beyond in ((less, values < low - _TOLERANCE), (more, values > high + _TOLERANCE)):
            if beyond.mean() > _MAX_UNLIKE:
                said.append(
                    f"{beyond.sum():,} of {len(met):,} images looked at are {word} than all those "
                    f"calibrated on: {name} {values[beyond].min():.0f} to "
                    f"{values[beyond].max():.0f} of 255, there {low:.0f} to {high:.0f}. "
                    "Run: edgevit calibrate, with images like these"
                )
    return tuple(said)


def _looks(value: bytes) -> tuple[float, float, float]:
    luma, colours = luma_and_colours(value)
    return float(luma.mean()), float(luma.std()), float(np.abs(colours - 128).mean())
