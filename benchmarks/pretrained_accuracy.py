"""How close INT8 comes to fp32 on real pretrained weights, beside other tools.

Without ``--weights``, DINOv2-S of `pretrained.py`: the class token as features. With it, any
address that ``edgevit export`` takes, on images of one's own: ViT, DeiT, Swin, DINOv2, SigLIP.
Every way of quantizing sees the same fp32 graph and the same calibration images.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from int8_accuracy import run
from peers import BUILD, PEERS, quantize_by
from pretrained import cut_crops, load_photographs, write_dinov2s
from saving import RESULTS, load_average, write_result

import edge_vit
from edge_vit.data.images import open_image_source
from edge_vit.data.preprocess import preprocess
from edge_vit.spec.table import CalibrationTable

OWN = ("edge-vit minmax", "edge-vit fast", "edge-vit balanced")
NUM_CALIBRATION, NUM_IMAGES = 64, 128


def measure(
    name: str, bundle: edge_vit.Bundle, calibration: Any, images: Any, ways: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Yield one row per way of quantizing."""
    fp32 = bundle.read_graph()
    source = BUILD / "quantized" / f"fp32-{hashlib.sha256(fp32).hexdigest()[:16]}" / "fp32.onnx"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(fp32)
    exact = run(source, images).astype(np.float64)
    for way in ways:
        quantized = quantize_by(way, fp32, bundle.spec, calibration)
        output = run(quantized.path, images).astype(np.float64)
        noise, signal = np.square(output - exact).sum(1), np.square(exact).sum(1)
        by_image = 10 * np.log10(signal / noise)
        row = {
            "model": name,
            "way": way,
            "calibration_images": len(calibration),
            "images": len(images),
            "sqnr_db": round(float(10 * np.log10(signal.sum() / noise.sum())), 2),
            "worst_db": round(float(by_image.min()), 2),
            "same": round(100 * _same(exact, output, bundle.spec.task), 2),
            "seconds": quantized.seconds,
            "peak_mib": quantized.peak_mib,
        }
        if way in OWN:
            table = CalibrationTable.from_bytes(quantized.path.with_suffix(".json").read_bytes())
            if table.forecast is not None:
                row["foreseen_db"] = round(table.forecast.sqnr, 2)
                row["plan"] = table.forecast.plan
        print(row, flush=True)
        yield row


def _same(exact: Any, output: Any, task: str) -> float:
    """Return the share of images with the same class, or of features the same nearest neighbour."""
    if task != "features":
        return float((exact.argmax(1) == output.argmax(1)).mean())
    neighbours = []
    for rows in (exact, output):
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = units @ units.T
        np.fill_diagonal(cosines, -np.inf)
        neighbours.append(cosines.argmax(1))
    return float((neighbours[0] == neighbours[1]).mean())


def _read(folder: Path, bundle: edge_vit.Bundle, count: int) -> Any:
    source = open_image_source(folder, limit=count)
    return np.stack([preprocess(item.pixels, bundle.spec.preprocess) for item in source])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path, default=BUILD / "pretrained", help="see pretrained")
    parser.add_argument("--weights", metavar="ADDRESS", help="such as hf:DIR or timm:NAME")
    parser.add_argument("--calib", type=Path, help="with --weights: folder to calibrate on")
    parser.add_argument("--data", type=Path, help="with --weights: folder to judge on")
    parser.add_argument("--num-calib", type=int, default=NUM_CALIBRATION)
    parser.add_argument("--num-images", type=int, default=NUM_IMAGES)
    parser.add_argument("--peers", action="store_true", help="the other tools as well")
    arguments = parser.parse_args()
    if arguments.weights and not (arguments.calib and arguments.data):
        parser.error("--weights wants --calib DIR and --data DIR")
    name = arguments.weights or "DINOv2-S"
    address = arguments.weights or f"hf:{write_dinov2s(arguments.sources, BUILD / 'dinov2s')}"
    path = BUILD / "models" / f"{hashlib.sha256(address.encode()).hexdigest()[:12]}.edgevit"
    path.parent.mkdir(parents=True, exist_ok=True)
    bundle = edge_vit.Bundle.open(path) if path.exists() else edge_vit.export_bundle(address, path)
    if arguments.weights:
        calibration = _read(arguments.calib, bundle, arguments.num_calib)
        images = _read(arguments.data, bundle, arguments.num_images)
    else:
        photographs = load_photographs([arguments.sources])
        third = len(photographs) // 3
        calibration, _ = cut_crops(photographs[:third], arguments.num_calib, seed=1)
        images, _ = cut_crops(photographs[third:], arguments.num_images, seed=2)
    ways = (*OWN, *(PEERS if arguments.peers else ()))
    load = load_average()
    rows = list(measure(name, bundle, calibration, images, ways))
    conditions = {"calibration_images": len(calibration), "images": len(images)}
    path = write_result(
        RESULTS, "pretrained_accuracy", threads=2, load=load, conditions=conditions, results=rows
    )
    print(path)


if __name__ == "__main__":
    main()
