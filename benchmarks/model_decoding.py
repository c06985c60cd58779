"""How decoding is compared with the library's own, for the table of models."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

import edge_vit
from edge_vit.data.preprocess import preprocess
from edge_vit.export.reference import normalise
from edge_vit.export.sources import SourceRequest, TorchSource
from edge_vit.runtime.session import SessionOptions, open_session
from edge_vit.spec.samples import feeds_of
from edge_vit.tasks import task_of
from edge_vit.tasks.detection.decoding import find_boxes
from edge_vit.tasks.generation.loop import noise, sample
from edge_vit.tasks.segmentation.decoding import instances, semantic_map

Photo = npt.NDArray[np.uint8]
"""A photograph (height, width, 3), or for a model of clips (frames, height, width, 3)."""


@dataclass(frozen=True)
class Made:
    """A model with its weights, as the library has it and as edge-vit is asked for it."""

    request: SourceRequest
    source: TorchSource
    # The library's own output for a photograph as it is; None where nothing is compared with it
    reference: Callable[[Photo], Any] | None = None
    processor: Any = None  # of transformers


Decode = Callable[[Made, edge_vit.Bundle, Sequence[Photo]], tuple[str, float]]
"""Returns what the decoding was compared with, and the largest difference."""


def compare_outputs(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the outputs for photographs as they are, preprocessing included."""
    import torch

    assert made.reference is not None
    spec, differences = bundle.spec, []
    with open_session(bundle, "fp32", "ort", SessionOptions(1)) as session:
        for photo in photos:
            with torch.no_grad():
                wanted = np.asarray(made.reference(photo))
            feeds = {spec.inputs[0].name: preprocess(photo, spec.preprocess)[None]}
            got = session.run(feeds)[spec.outputs[0].name]
            differences.append(np.abs(got - wanted).max() / np.abs(wanted).max())
    return "preprocessing and outputs of the library", float(max(differences))


def compare_boxes(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the boxes with those of transformers' own post-processing, in shares of the side."""
    import torch
    from transformers.modeling_outputs import ModelOutput

    largest, side = 0.0, 64
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, side, side), "f4"))
    with torch.no_grad():
        logits, boxes = made.source.module(images)
    post_process = made.processor.post_process_object_detection
    more = {}
    if "top_k" in inspect.signature(post_process).parameters:
        more["top_k"] = logits.shape[1]
    for size in ((480, 640), (333, 200)):
        found = ModelOutput(logits=logits, pred_boxes=boxes)
        (wanted,) = post_process(found, threshold=0.001, target_sizes=[size], **more)
        outputs = {"logits": logits[0].numpy(), "boxes": boxes[0].numpy()}
        ours = find_boxes(bundle.spec, outputs, size, min_score=0.001, clip=False)
        order = np.lexsort((wanted["boxes"][:, 0].numpy(), wanted["labels"].numpy()))
        again = np.lexsort((ours.boxes[:, 0], ours.classes))
        difference = np.abs(ours.boxes[again] - wanted["boxes"].numpy()[order]).max()
        largest = max(largest, float(difference) / max(size))
    return "post_process_object_detection of transformers", largest


def compare_masks(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare the classes of pixels with those of transformers' own post-processing: a share."""
    import torch
    from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

    spec, source, size = bundle.spec, made.source, (100, 150)
    height, width = spec.preprocess.image_size
    noise = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        outputs = source.module(torch.from_numpy(noise))
    if len(outputs) == 1:
        processor, given = SegformerImageProcessor(), SimpleNamespace(logits=outputs[0])
    else:
        processor = Mask2FormerImageProcessor()
        given = SimpleNamespace(class_queries_logits=outputs[0], masks_queries_logits=outputs[1])
    (wanted,) = processor.post_process_semantic_segmentation(given, target_sizes=[size])
    rows = {name: part[0].numpy() for name, part in zip(source.outputs, outputs, strict=True)}
    found = semantic_map(spec, rows, size, spec.preprocess)
    differing = float(np.mean(found != wanted.numpy()))
    return (
        "post_process_semantic_segmentation of transformers, on noise: share of pixels",
        differing,
    )


def compare_objects(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare RF-DETR's objects with those of its own post-processing: a share of their pixels."""
    import torch
    from transformers import RfDetrImageProcessor

    spec, size = dataclasses.replace(bundle.spec, threshold=0.01), (100, 150)
    height, width = spec.preprocess.image_size
    noise = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        logits, masks = made.source.module(torch.from_numpy(noise))
    (wanted,) = RfDetrImageProcessor().post_process_instance_segmentation(
        SimpleNamespace(logits=logits, pred_masks=masks),
        threshold=spec.threshold,
        target_sizes=[size],
        return_binary_maps=True,
    )
    outputs = {"class_logits": logits[0].numpy(), "mask_logits": masks[0].numpy()}
    found = instances(spec, outputs, size, spec.preprocess)
    labels = [each["label_id"] for each in wanted["segments_info"]]
    assert labels and [each.index for each in found] == labels
    ours = np.stack([each.mask for each in found])
    differing = float(np.mean(ours != (wanted["segmentation"].numpy() > 0)))
    return (
        "post_process_instance_segmentation of transformers, on noise: share of pixels",
        differing,
    )


def compare_depths(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare depths in the photograph's pixels with transformers' own, over the largest."""
    import torch
    from transformers import DPTImageProcessor

    spec, photo = bundle.spec, photos[0]
    size = (photo.shape[0] // 4, photo.shape[1] // 4)
    pixels = preprocess(photo, spec.preprocess)
    with torch.no_grad():
        outputs = made.source.module(torch.from_numpy(normalise(pixels[None], spec.preprocess)))
    depth = outputs[0] if isinstance(outputs, tuple) else outputs
    given = SimpleNamespace(predicted_depth=depth)
    (theirs,) = DPTImageProcessor().post_process_depth_estimation(given, target_sizes=[size])
    wanted = theirs["predicted_depth"].numpy()
    (ours,) = task_of(spec).decode(spec, {"depth": depth.numpy()}, sizes=[size])
    difference = float(np.abs(ours.whole() - wanted).max() / wanted.max())
    return "post_process_depth_estimation of transformers", difference


def compare_squares(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare as `compare_outputs` does on squares, which a processor that keeps shapes keeps."""
    sides = [min(photo.shape[:2]) for photo in photos]
    squares = [photo[:side, :side] for photo, side in zip(photos, sides, strict=True)]
    text, difference = compare_outputs(made, bundle, squares)
    return f"{text}, on squares", difference


def compare_samples(
    made: Made, bundle: edge_vit.Bundle, photos: Sequence[Photo]
) -> tuple[str, float]:
    """Compare samples of two seeds with those that the module gives in the same loop."""
    import torch

    spec, largest = bundle.spec, 0.0

    def run_module(rows: Any) -> dict[str, Any]:
        given = (torch.from_numpy(rows[tensor.name].copy()) for tensor in spec.inputs)
        with torch.no_grad():
            return {spec.outputs[0].name: made.source.module(*given)[0].numpy()}

    with open_session(bundle, "fp32", "ort", SessionOptions(1)) as session:
        for seed in (7, 8):
            row = noise(spec, seed)
            ours = sample(spec, lambda rows: session.run(feeds_of(spec.inputs, rows)), row).latents
            wanted = sample(spec, run_module, row).latents
            largest = max(largest, float(np.abs(ours - wanted).max() / np.abs(wanted).max()))
    return "the module in torch, in the same sampling loop", largest
