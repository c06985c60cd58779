"""Small models of every family whose residual stream can be turned, and of some that have none."""

from __future__ import annotations

from typing import Any

import onnx
import timm
from reseed import reseed
from traced import plain_attention, trace_small

from edge_vit.export.canonical import make_canonical
from edge_vit.spec import PreprocessSpec

_TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 7}
_BY_8 = {**_TINY, "img_size": 32, "patch_size": 8}
_SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 7}
_WINDOWS = {"img_size": 32, "patch_size": 4, "window_size": 4}

TURNABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", _BY_8),
    "deit distilled": ("deit_tiny_distilled_patch16_224", _BY_8),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {**_TINY, "img_size": 28}),
    "dinov2, features": ("vit_small_patch14_dinov2", {**_TINY, "num_classes": 0, "img_size": 28}),
    "dinov3": ("vit_small_patch16_dinov3", _BY_8),
    "beit": ("beit_base_patch16_224", _BY_8),
    "clip": ("vit_base_patch16_clip_224", _BY_8),
    "siglip": ("vit_base_patch16_siglip_224", _BY_8),
    "eva02": ("eva02_base_patch14_224", {**_TINY, "img_size": 28}),
}
"""By family, the name of a model of timm and what makes it small."""

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("swin_tiny_patch4_window7_224", {**_SWIN, **_WINDOWS}),
    "swinv2": ("swinv2_tiny_window8_256", {**_SWIN, **_WINDOWS}),
    "cait": ("cait_xxs24_224", _BY_8),
    "hybrid": ("vit_tiny_r_s16_p8_224", {**_TINY, "img_size": 32}),
}


def export_small(name: str, arguments: dict[str, Any]) -> onnx.ModelProto:
    """Return a reseeded model of timm in canonical form."""
    with plain_attention():
        module = timm.create_model(name, **arguments).eval()
    reseed(module)
    size = arguments["img_size"]
    preprocess = PreprocessSpec((size, size))
    task = "classification" if arguments["num_classes"] else "features"
    return make_canonical(trace_small(module, (size, size)), preprocess, task).model
