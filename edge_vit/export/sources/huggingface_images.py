"""A transformers image or video processor in timm's words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from edge_vit.errors import SpecError
from edge_vit.export.sources.request import SourceRequest
from edge_vit.spec import ClipSpec, CropMode, Interpolation, PreprocessSpec

# Pillow's numbers, which preprocessor_config.json stores
_INTERPOLATIONS: tuple[Interpolation, ...] = (
    *("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"),
)


def read_preprocess(
    transformers: ModuleType,
    request: SourceRequest,
    place: str,
    is_local: bool,
    clip: ClipSpec | None = None,
    usual: tuple[int, int] | None = None,
) -> PreprocessSpec:
    """Return what the model's preprocessor_config.json tells, with the user's overrides.

    A model of clips, which reads `clip`, has a video processor, or an image processor in older
    files. `usual` is the (height, width) where a model of maps keeps the shape of each image.
    """
    readers = [transformers.AutoImageProcessor]
    if clip is not None:
        readers.insert(0, transformers.AutoVideoProcessor)
    for reader in readers:
        try:
            processor = reader.from_pretrained(
                place, trust_remote_code=False, local_files_only=is_local
            )
        except (OSError, ValueError):  # no such file, or for no processor of this kind
            continue
        facts = processor.to_dict()
        own = translate(facts, request.address, request.image_size or usual)
        if clip is not None and facts.get("do_sample_frames"):
            clip = replace(clip, sampling="spread")
        return request.refine(replace(own, clip=clip))
    return replace(request.whole_preprocess(), clip=request.refine_clip(clip))


def translate(
    facts: Mapping[str, Any], address: str, image_size: tuple[int, int] | None = None
) -> PreprocessSpec:
    """Return the facts of an image processor, its `to_dict()`, as a `PreprocessSpec`.

    With an `image_size` (height, width), one that keeps the shape of each image is taken to resize
    all of them to it whole.
    """
    mode, crop, resized = _read_geometry(facts, address, image_size)
    mean, std = _read_normalisation(facts)
    return PreprocessSpec(
        image_size=crop,
        interpolation=_INTERPOLATIONS[int(facts.get("resample") or 0)],
        crop_pct=crop[0] / resized,
        crop_mode=mode,
        mean=mean,
        std=std,
    )


def _read_geometry(
    facts: Mapping[str, Any], address: str, image_size: tuple[int, int] | None
) -> tuple[CropMode, tuple[int, int], int]:
    """Return the crop mode, the final (height, width), and the height or shorter side before it."""
    if facts.get("max_num_patches"):  # NaFlex: at most so many patches of any image
        side = facts["patch_size"] * math.isqrt(facts["max_num_patches"])
        final = image_size or (side, side)
        return "squash", final, final[0]
    size = facts.get("size") or {}
    shortest, height, width = (size.get(key) for key in ("shortest_edge", "height", "width"))
    crop = (facts.get("crop_size") or {}) if facts.get("do_center_crop") else {}
    if not facts.get("do_resize"):
        if image_size:
            return "squash", image_size, image_size[0]
        raise SpecError(
            f"{address}: its preprocessor_config.json says do_resize false, but a graph has one "
            "input size. Add --image-size, to which all images are resized"
        )
    if shortest and crop:
        return "center", (crop["height"], crop["width"]), shortest
    if height and width:
        final = (crop["height"], crop["width"]) if crop else (height, width)
        if final[0] * width == final[1] * height:
            return "squash", final, height
    if shortest and image_size:  # a detector's: each image keeps its shape, a graph has one
        return "squash", image_size, image_size[0]
    if shortest:
        raise SpecError(
            f"{address}: its preprocessor_config.json resizes to {dict(size)} and keeps the shape "
            "of each image, but a graph has one input size. Add --image-size, such as "
            f"--image-size {shortest}; --crop-mode border pads instead of stretching"
        )
    if image_size and not crop:
        return "squash", image_size, image_size[0]
    raise SpecError(
        f"{address}: its preprocessor_config.json resizes to {dict(size) or 'no size'} and crops "
        f"to {dict(crop) or 'nothing'}, expected height and width, or shortest_edge with a crop. "
        "Add --image-size, to which all images are resized"
    )


def _read_normalisation(
    facts: Mapping[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std of values from 0 to 1.

    transformers computes ``(pixel * factor - mean) / std``, edge-vit ``(pixel / 255 - mean') /
    std'``: both are the same where ``mean' = mean / (255 factor)`` and ``std' = std / (255
    factor)``. ViViT's processors subtract 1 before that.
    """
    factor = facts.get("rescale_factor") or 1 / 255 if facts.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if facts.get("do_normalize"):
        mean, std = tuple(facts["image_mean"]), tuple(facts["image_std"])
    is_vivit = facts.get("video_processor_type") == "VivitVideoProcessor"
    if facts.get("do_rescale", True) and facts.get("offset", is_vivit):
        mean = (mean[0] + 1, mean[1] + 1, mean[2] + 1)
    if abs(factor * 255 - 1) < 1e-9:
        return mean, std  # the usual case, kept free of rounding
    unit = 255 * factor
    r, g, b = (number / unit for number in mean)
    return (r, g, b), (std[0] / unit, std[1] / unit, std[2] / unit)
