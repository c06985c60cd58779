"""Streams images through the fp32 graph and keeps bounded statistics of each site's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_vit.calibration.held_out import ChannelRange, HeldOut, Ranges
from edge_vit.calibration.stats import ActivationStats
from edge_vit.errors import BackendError, SpecError
from edge_vit.graph.expose import expose
from edge_vit.graph.sites import find_sites
from edge_vit.images import ImageSource
from edge_vit.preprocess import UInt8Array, digest, preprocess
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec


@dataclass(frozen=True)
class Observation:
    """What calibration saw.

    Attributes:
        stats: of each site's input, by site name.
        image_digests: of each image as the model saw it, sorted.
        ranges: of each site's input, by site name, over the images that were not held out.
        held_out: the others, uint8 (height, width, 3) RGB, as preprocessed.
    """

    stats: Mapping[str, ActivationStats]
    image_digests: tuple[str, ...]
    ranges: Ranges
    held_out: tuple[UInt8Array, ...]


def observe(
    model: onnx.ModelProto,
    spec: ModelSpec,
    images: ImageSource,
    *,
    hold_out: int = 0,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Observation:
    """Run every image of `images` once, one at a time, and return the statistics.

    Memory does not grow with the number of images.

    Args:
        model: the fp32 graph in canonical form.
        spec: its facts; the preprocessing is taken from here.
        images: what to calibrate on.
        hold_out: how many images to keep for judging; they leave no trace in `ranges`.
        threads: of ONNX Runtime; None for all cores.
        progress: told about each image.

    Raises:
        SpecError: the graph has no transformer block.
        BackendError: an activation is NaN or infinite; the message names site and image.
    """
    sites = find_sites(ir.from_proto(model).graph)
    inputs = {site.name: site.linear.input.name or "" for site in sites}
    if not inputs:
        raise SpecError(
            f"{spec.name} has no transformer block that edge-vit can find, nothing to quantize"
        )
    names = list(dict.fromkeys(inputs.values()))
    session = open_exact_session(expose(model, names, only=True), threads)
    stats: dict[str, ActivationStats] = {}
    digests: list[str] = []
    held_out = HeldOut(hold_out)
    with progress.step(f"calibrating on {len(images)} images", len(images)) as advance:
        for item in images:
            pixels = preprocess(item.pixels, spec.preprocess)
            digests.append(digest(pixels))
            batch = np.broadcast_to(pixels, (spec.static_batch or 1, *pixels.shape))
            outputs = session.run(names, {spec.inputs[0].name: np.ascontiguousarray(batch)})
            seen_here = {
                name: ActivationStats.of(output)
                for name, output in zip(names, outputs, strict=True)
            }
            for name, seen in seen_here.items():
                if not seen.is_finite:
                    site = next(site for site, value in inputs.items() if value == name)
                    raise BackendError(
                        f"{site}: its input is NaN or infinite for image {item.name}. "
                        "The fp32 model itself fails there; check its weights and the image"
                    )
                stats[name] = stats[name].merge(seen) if name in stats else seen
            ranges = {name: ChannelRange.of(seen) for name, seen in seen_here.items()}
            held_out.add(digests[-1], pixels, ranges)
            advance(1)
    return Observation(
        {site: stats[value] for site, value in inputs.items()},
        tuple(sorted(digests)),
        {site: held_out.ranges[value] for site, value in inputs.items()},
        held_out.images,
    )


def open_exact_session(model: onnx.ModelProto, threads: int | None) -> ort.InferenceSession:
    """Return ONNX Runtime on a float32 graph, on the CPU, saying nothing, its memory kept small."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    # One image's activations are freed before the next: the arena would keep the largest of each.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
