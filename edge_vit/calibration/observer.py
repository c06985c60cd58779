"""Streams images through the fp32 graph and keeps bounded statistics of each site's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edge_vit.calibration.stats import ActivationStats
from edge_vit.errors import BackendError, SpecError
from edge_vit.graph.expose import expose
from edge_vit.graph.sites import find_sites
from edge_vit.images import ImageSource
from edge_vit.preprocess import digest, preprocess
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec


@dataclass(frozen=True)
class Observation:
    """What calibration saw.

    Attributes:
        stats: of each site's input, by site name.
        image_digests: of each image as the model saw it, sorted.
    """

    stats: Mapping[str, ActivationStats]
    image_digests: tuple[str, ...]


def observe(
    model: onnx.ModelProto,
    spec: ModelSpec,
    images: ImageSource,
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Observation:
    """Run every image of `images` once, one at a time, and return the statistics.

    Memory does not grow with the number of images.

    Args:
        model: the fp32 graph in canonical form.
        spec: its facts; the preprocessing is taken from here.
        images: what to calibrate on.
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
    session = _open(expose(model, names, only=True), threads)
    stats: dict[str, ActivationStats] = {}
    digests = []
    with progress.step(f"calibrating on {len(images)} images", len(images)) as advance:
        for item in images:
            pixels = preprocess(item.pixels, spec.preprocess)
            digests.append(digest(pixels))
            batch = np.broadcast_to(pixels, (spec.static_batch or 1, *pixels.shape))
            outputs = session.run(names, {spec.inputs[0].name: np.ascontiguousarray(batch)})
            for name, output in zip(names, outputs, strict=True):
                seen = ActivationStats.of(output)
                if not seen.is_finite:
                    site = next(site for site, value in inputs.items() if value == name)
                    raise BackendError(
                        f"{site}: its input is NaN or infinite for image {item.name}. "
                        "The fp32 model itself fails there; check its weights and the image"
                    )
                stats[name] = stats[name].merge(seen) if name in stats else seen
            advance(1)
    return Observation(
        {site: stats[value] for site, value in inputs.items()}, tuple(sorted(digests))
    )


def _open(model: onnx.ModelProto, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    # One image's activations are freed before the next: the arena would keep the largest of each.
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
