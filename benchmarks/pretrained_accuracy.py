"""How close INT8 comes to fp32 on real pretrained weights, beside other tools.

Without arguments: DINOv2-S of `pretrained.py`, as features and as a classifier, and CLIP of
`pretrained_clip.py`, fetched where they are not at hand. With ``--weights``, any address that
``edgevit export`` takes, on images of one's own: ViT, DeiT, Swin, DINOv2, SigLIP. Every way of
quantizing sees the same fp32 graph and the same calibration images. What is done is kept under
``build/``.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from int8_accuracy import AS_TRAINED, draw, measure
from outliers import VARIANTS
from peers import BUILD, PEERS, PRESETS
from pretrained import SIDE, fetch, load_photographs, make_dinov2s, make_probe
from pretrained_clip import make_clip
from real_models import RealModel, export_kept
from saving import RESULTS, load_average, write_result

import edge_vit
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.preprocess import preprocess

MAKERS = {"features": make_dinov2s, "probe": make_probe, "clip": make_clip}
CHANGED = ("edge-vit fast", "edge-vit balanced")
"""Ways that outlier variants are quantized by."""


def load_own(
    addresses: list[str], calib: Path, data: Path, num_calib: int, num_images: int
) -> Iterator[RealModel]:
    """Yield models of one's own weights, on one's own images; labels are the folders of `data`."""
    for address in addresses:
        full = f"hf:{address}" if Path(address).is_dir() else address
        name = hashlib.sha256(full.encode()).hexdigest()[:12]
        bundle = export_kept(full, BUILD / "models" / f"{name}.edgevit")
        calibration, _ = _read(open_image_source(calib, limit=num_calib, has_truth=False), bundle)
        is_classifier = bundle.spec.task == "classification"
        names = bundle.spec.labels if is_classifier else ()
        source = open_image_source(data, names, num_images, has_truth=is_classifier)
        images, labels = _read(source, bundle)
        is_known = is_classifier and None not in labels
        truth = np.array(labels, np.int64) if is_known else None
        yield RealModel(address, bundle, calibration, images, truth)


def _read(source: ImageSource, bundle: edge_vit.Bundle) -> tuple[np.ndarray, list[int | None]]:
    items = [(preprocess(item.pixels, bundle.spec.preprocess), item.label) for item in source]
    return np.stack([pixels for pixels, _ in items]), [label for _, label in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MAKERS, help="one of the models")
    parser.add_argument("--sources", type=Path, default=BUILD / "pretrained", help="fetched into")
    parser.add_argument("--photographs", type=Path, help="a folder of one's own, not those fetched")
    parser.add_argument(
        "--weights", action="append", metavar="ADDRESS", help="hf:DIR or timm:NAME; repeatable"
    )
    parser.add_argument("--calib", type=Path, help="with --weights: folder to calibrate on")
    parser.add_argument("--data", type=Path, help="with --weights: folder to judge on")
    parser.add_argument("--num-calib", type=int, default=256, help="with --weights")
    parser.add_argument("--num-images", type=int, default=5000, help="with --weights")
    parser.add_argument(
        "--way", action="append", help="only this way; written where --results is given; repeatable"
    )
    parser.add_argument("--peers", action="store_true", help="the other tools as well")
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=VARIANTS[1:],
        help="outlier variants as well: these, or all of them",
    )
    parser.add_argument("--results", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    if arguments.weights and not (arguments.calib and arguments.data):
        parser.error("--weights wants --calib DIR and --data DIR")
    load, models = load_average(), BUILD / "models"
    models.mkdir(parents=True, exist_ok=True)
    found: Iterator[RealModel]
    if arguments.weights:
        folders = arguments.calib, arguments.data
        counts = arguments.num_calib, arguments.num_images
        found = load_own(arguments.weights, *folders, *counts)
    else:
        fetched = fetch(arguments.sources)
        own = [arguments.photographs] if arguments.photographs else fetched
        photographs = load_photographs(own)
        print(f"{len(photographs)} photographs", flush=True)
        makers = [MAKERS[arguments.only]] if arguments.only else MAKERS.values()
        found = (make(photographs, arguments.sources, models) for make in makers)
    ways = tuple(arguments.way or (*PRESETS, *(PEERS if arguments.peers else ())))
    changed = VARIANTS[1:] if arguments.variants == [] else arguments.variants or ()
    ways_on = {AS_TRAINED: ways, **dict.fromkeys(changed, CHANGED)}
    rows = [row for model in found for row in measure(model, arguments.num_images, ways_on)]
    if arguments.way and not arguments.results:
        print("a part of the ways: nothing written")
        return
    path = write_result(
        arguments.results or RESULTS,
        f"pretrained_accuracy_{arguments.only}" if arguments.only else "pretrained_accuracy",
        threads=2,
        load=load,
        conditions={
            "images": f"crops of photographs at {SIDE} pixels"
            if not arguments.weights
            else "of one's own",
            "variants": "benchmarks/outliers.py, the same function",
            "run": "ONNX Runtime, the portable graph; NNCF's in OpenVINO, float32 around it",
        },
        results=rows,
    )
    draw([row for row in rows if "failed" not in row], path.with_suffix(".svg"))
    print(path)


if __name__ == "__main__":
    main()
