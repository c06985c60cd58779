"""Streams images through the fp32 graph and keeps bounded statistics of each site's input."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edge_vit.calibration.held_out import ChannelRange, Ranges
from edge_vit.calibration.output_error import Outputs
from edge_vit.calibration.seen import SECONDS_BETWEEN_SAVES, SeenFile
from edge_vit.calibration.stats import ActivationStats
from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import UInt8Array, digest, preprocess
from edge_vit.errors import BackendError, SpecError
from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import expose
from edge_vit.graph.sites import find_sites
from edge_vit.graph.walk import Array
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec, TensorSpec
from edge_vit.values import to_json

_MOST_VALUES = 1 << 14  # of an output of one image, so that those of a few hundred can be kept


@dataclass(frozen=True)
class Observation:
    """What calibration saw."""

    stats: Mapping[str, ActivationStats]  # of each site's input, by site name
    image_digests: tuple[str, ...]  # of each image as the model saw it, sorted
    # `edge_vit.data.perceptual.signature` of each different image as base64, sorted
    image_signatures: tuple[str, ...]
    ranges: Ranges  # of each site's input, by site name, over the images that were not held out
    held_out: tuple[UInt8Array, ...]  # the others, uint8 (height, width, 3) RGB, as preprocessed
    # some of the images that were not, at most as many as were asked for
    shaping: tuple[UInt8Array, ...]
    # the few of all images whose sites' inputs hold the largest |x|; likewise
    farthest: tuple[UInt8Array, ...]
    # (N, K) float32, of up to 256 of the different images: the mean over tokens of what the last
    # block's attention reads.
    features: Array = field(default_factory=lambda: np.empty((0, 0), np.float32))
    # by digest, the outputs of images among `held_out` and `shaping`, where they are small
    outputs: Mapping[str, Outputs] = field(default_factory=dict)


def observe(
    model: onnx.ModelProto,
    spec: ModelSpec,
    images: ImageSource,
    *,
    exclude: Collection[str] = (),
    hold_out: int = 0,
    num_shaping: int = 0,
    has_histogram: bool = False,
    threads: int | None = None,
    state_path: Path | None = None,
    model_digest: str = "",
    progress: Progress = SILENT,
) -> Observation:
    """Run every image of `images` once, one at a time, and return the statistics.

    Memory does not grow with the number of images.

    `exclude`: digests of images to pass over. `hold_out`: how many images to keep for judging; they
    leave no trace in `ranges`. `has_histogram`: count the elements of each site's input by size as
    well. `state_path`: a file that what was seen is kept in while it runs. Images that it holds
    from a run that was cut off are not run again, in whatever order they come. Remove it when what
    is returned is safe. `model_digest`: of the model's file; what was seen of another model is of
    no use.

    Raises:
        SpecError: the graph has no linear layer that can be quantized.
        BackendError: an activation is NaN or infinite; the message names site and image.
    """
    sites = find_sites(ir.from_proto(model).graph)
    inputs = {site.name: site.linear.input.name or "" for site in sites}
    if not inputs:
        raise SpecError(
            f"{spec.name} has no transformer block and no linear layer on tokens that edge-vit "
            "finds: INT8 has nothing to quantize. Take FP16: edgevit export ... --fp16"
        )
    names = list(dict.fromkeys(inputs.values()))
    last = next((site for site in reversed(sites) if site.role == "qkv"), sites[-1])
    output_names = [o.name for o in spec.outputs] if all(map(_is_small, spec.outputs)) else []
    wanted = list(dict.fromkeys([*names, *output_names]))
    session = open_exact_session(expose(model, wanted, only=True), threads)
    outputs = dict[str, Outputs]()
    key = f"{model_digest} {to_json(spec.preprocess)} {hold_out} {num_shaping} {has_histogram}"
    kept = SeenFile(state_path, key, hold_out, num_shaping)
    if kept.num_resumed:
        progress.note(f"going on from {kept.num_resumed:,} images of a calibration cut off before")
    num_excluded = 0
    try:
        with progress.step(f"calibrating on {len(images)} images", len(images)) as advance:
            for item in images:
                pixels = preprocess(item.pixels, spec.preprocess)
                image_digest = digest(pixels)
                if image_digest in exclude:
                    num_excluded += 1
                elif not kept.knows(image_digest):
                    made = session.run(wanted, feed_image(spec, pixels))
                    values = dict(zip(wanted, made, strict=True))
                    stats = {
                        name: ActivationStats.of(values[name], has_histogram=has_histogram)
                        for name in names
                    }
                    _refuse_nonfinite(stats, inputs, item.name)
                    told_by = values[inputs[last.name]]
                    feature = told_by.reshape(-1, told_by.shape[-1]).mean(axis=0)
                    kept.seen.add(image_digest, pixels, stats, feature)
                    kept.save(SECONDS_BETWEEN_SAVES)
                    outputs[image_digest] = {name: values[name][0] for name in output_names}
                    held = kept.seen.held_out
                    for gone in outputs.keys() - held.kept.keys() - held.others.keys():
                        del outputs[gone]
                advance(1)
    except BaseException:
        kept.save()
        raise
    if kept.num_resumed:  # the file holds images that are not among these
        progress.note("the images are not those of the calibration cut off before: beginning anew")
        assert state_path is not None
        state_path.unlink(missing_ok=True)
        return observe(
            model,
            spec,
            images,
            exclude=exclude,
            hold_out=hold_out,
            num_shaping=num_shaping,
            has_histogram=has_histogram,
            threads=threads,
            progress=progress,
        )
    if num_excluded:
        progress.note(
            f"{num_excluded} of the images are golden ones, which INT8 is tried on: left out"
        )
    seen = kept.seen
    ranges = seen.held_out.ranges
    return Observation(
        {site: seen.stats[value] for site, value in inputs.items()},
        tuple(sorted(seen.digests)),
        tuple(sorted(set(seen.signatures.values()))),
        {site: ranges[value] for site, value in inputs.items()},
        seen.held_out.images,
        seen.held_out.shaping,
        tuple(seen.farthest[name][1] for name in sorted(seen.farthest)),
        np.array([seen.features[digest] for digest in sorted(seen.features)]),
        outputs if output_names else {},
    )


def observe_again(
    model: onnx.ModelProto,
    spec: ModelSpec,
    seen: Observation,
    sites: Collection[str],
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Observation:
    """Return what was seen, but for some layers, whose inputs another form of the graph changes.

    Those are looked at anew on the images that shape the plan.

    `seen`: of the graph as it was. `sites`: layers whose inputs are others now.
    """
    found = find_sites(ir.from_proto(model).graph)
    inputs = {s.name: s.linear.input.name or "" for s in found if s.name in sites}
    names = list(dict.fromkeys(inputs.values()))
    stats = dict[str, ActivationStats]()
    session = open_exact_session(expose(model, names, only=True), threads)
    title = f"looking again on {len(seen.shaping)} images"
    with progress.step(title, len(seen.shaping)) as advance:
        for pixels in seen.shaping:
            values = session.run(names, feed_image(spec, pixels))
            for name, value in zip(names, values, strict=True):
                here = ActivationStats.of(value, has_histogram=False)
                stats[name] = stats[name].merge(here) if name in stats else here
            advance(1)
    anew = {site: stats[name].as_of(seen.stats[site].num_rows) for site, name in inputs.items()}
    ranges = {site: ChannelRange.of(here) for site, here in anew.items()}
    return replace(seen, stats={**seen.stats, **anew}, ranges={**seen.ranges, **ranges})


def _is_small(output: TensorSpec) -> bool:
    """Return whether the output of one image is few numbers, which little is computed for."""
    lengths = [length if isinstance(length, int) else _MOST_VALUES for length in output.shape[1:]]
    return math.prod(lengths) < _MOST_VALUES


def _refuse_nonfinite(
    stats: Mapping[str, ActivationStats], inputs: Mapping[str, str], image: str
) -> None:
    for name, seen in stats.items():
        if not seen.is_finite:
            site = next(site for site, value in inputs.items() if value == name)
            raise BackendError(
                f"{site}: its input is NaN or infinite for image {image}. "
                "The fp32 model itself fails there; check its weights and the image"
            )
