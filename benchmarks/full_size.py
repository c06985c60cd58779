"""INT8 beside fp32 on models of full size: ViT-S, ViT-B, DeiT-3 and DINOv2 with registers.

Pretrained weights are not at hand, so that weights are drawn from a seed, and outliers as large
pretrained models have them are put in (benchmarks/outliers.py). Logits or features are compared on
photographs with noise. ``--only`` takes a part; models that are done are kept under ``build/``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from outliers import add_huge_pair, scale_channels
from peers import BUILD, ROOT
from saving import RESULTS, load_average, write_result

sys.path.append(str(ROOT / "tests"))

from reseed import reseed

from edge_vit.calibration.calibrate import calibrate_model
from edge_vit.data.images import ArraySource
from edge_vit.export.canonical import make_canonical
from edge_vit.export.parity import sample_photos
from edge_vit.export.trace import trace_module
from edge_vit.lowering.qdq import write_qdq
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import SessionOptions
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input, task_output
from edge_vit.spec.table import RECIPES

SIDE, NUM_CALIBRATION, NUM_IMAGES = 224, 24, 24
MODELS = {
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "DeiT-3-S/16": "deit3_small_patch16_224",
    "DINOv2-S/14 reg4": "vit_small_patch14_reg4_dinov2",
}
RECIPE_NAMES = ("minmax", "fast", "balanced")


def images_of(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    photos = np.stack(sample_photos(PreprocessSpec((SIDE, SIDE)), 8))
    images = photos[random.integers(len(photos), size=count)].astype(np.float32)
    images *= random.uniform(0.6, 1.2, (count, 1, 1, 1))
    return (images + random.normal(0, 12, images.shape)).clip(0, 255).astype(np.uint8)


def build(name: str) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return the canonical graph of a timm model with weights from a seed, and its facts."""
    import timm
    import torch

    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=100, img_size=SIDE).eval()
    reseed(module)
    preprocess = PreprocessSpec((SIDE, SIDE), crop_pct=1.0)
    proto = trace_module(module, (SIDE, SIDE))
    graph = make_canonical(proto, preprocess, "classification")
    outputs = (task_output("classification", 100),)
    tokens = {"num_tokens": int(module.pos_embed.shape[1])}
    inputs = (image_input((SIDE, SIDE)),)
    spec = ModelSpec(name, f"timm:{name}", "classification", (), inputs, outputs, preprocess)
    return graph.model, ModelSpec(**{**vars(spec), "depth": graph.depth, **tokens})


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    with OrtSession(model.SerializeToString(), "fp32", SessionOptions(threads=2)) as session:
        outputs = [session.run({"images": images[i : i + 4]}) for i in range(0, len(images), 4)]
    return np.concatenate([next(iter(output.values())) for output in outputs])


def measure(name: str, address: str) -> Iterator[dict[str, Any]]:
    """Yield one row per variant and recipe."""
    model, spec = build(address)
    seen, images = images_of(NUM_CALIBRATION, 1), images_of(NUM_IMAGES, 2)
    versions = {
        "as drawn": model,
        "channels x100": scale_channels(model, 100),
        "huge MLP pair": add_huge_pair(model),
    }
    for variant, changed in versions.items():
        exact = run(changed, images)
        for recipe in RECIPE_NAMES:
            table = calibrate_model(
                changed.SerializeToString(), spec, ArraySource(seen), RECIPES[recipe], threads=2
            )
            output = run(write_qdq(changed, table), images)
            noise = np.square(output - exact, dtype=np.float64).sum()
            cosines = (output * exact).sum(1) / np.sqrt((output**2).sum(1) * (exact**2).sum(1))
            row = {
                "model": name,
                "variant": variant,
                "recipe": recipe,
                "sqnr_db": round(10 * float(np.log10(np.square(exact).sum() / noise)), 2),
                "lowest_cosine": round(float(cosines.min()), 6),
                "same_answer": round(100 * float((output.argmax(1) == exact.argmax(1)).mean()), 1),
                "forecast_db": round(table.sqnr, 2) if table.sqnr else None,
                "in_fp16": sorted(s for s, x in table.sites.items() if x.precision == "fp16"),
            }
            print(
                f"{name:18} {variant:14} {recipe:9} {row['sqnr_db']:6.2f} dB  lowest cosine "
                f"{row['lowest_cosine']:.5f}  same answer {row['same_answer']:5.1f} %",
                flush=True,
            )
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=MODELS, help="this; repeatable")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    load, folder, rows = load_average(), BUILD / "full_size", []
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or MODELS:
        kept = folder / f"{MODELS[name]}.json"
        if not kept.exists():
            kept.write_text(json.dumps(list(measure(name, MODELS[name]))))
        rows += json.loads(kept.read_text())
    path = write_result(
        arguments.results,
        "full_size",
        threads=2,
        load=load,
        conditions={
            "models": "timm, weights drawn from a seed (tests/reseed.py), 224 pixels",
            "variants": "benchmarks/outliers.py, the same function",
            "images": f"{NUM_CALIBRATION} to calibrate, {NUM_IMAGES} others to compare",
            "run": "ONNX Runtime, the portable graph",
        },
        results=rows,
    )
    print(path)


if __name__ == "__main__":
    main()
