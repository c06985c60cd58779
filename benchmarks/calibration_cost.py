"""What a calibration costs on ViT-S/16 at 224 pixels with 256 images, beside ModelOpt.

Each runs in a process of its own on the same graph and images: plain fp32 forward passes over the
images, edge-vit's recipes, and ModelOpt's default. Limits are in seconds of the processor, so that
other work on the machine takes no part; threads that spin while they wait would count double, and
are told not to in the passes as in a calibration. Weights are drawn from a seed, biases and norms
too (tests/reseed.py), so that every step of a recipe has something to try at every layer.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from full_size import build
from peers import EDGE_VIT, quantize_by
from saving import RESULTS, load_average, write_result

import edge_vit
from edge_vit.export.parity import sample_photos

MODEL, NUM_IMAGES = "vit_small_patch16_224", 256
MODELOPT, DEFAULT = "ModelOpt", "edge-vit balanced"
LIMITS = {"edge-vit fast": 2.0, "edge-vit balanced": 5.0}
"""How many times the plain forward passes a recipe may take, by the processor's time."""

MAX_SHARE = 0.5
"""Of ModelOpt's time and of its peak memory, for the default."""

FORWARD = """
import json, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
images = np.load(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"images": images[:1]})
start, start_cpu = time.perf_counter(), time.process_time()
for index in range(len(images)):
    session.run(None, {"images": images[index : index + 1]})
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": int(line.split()[1]) / 1024}))
"""


def distinct_images(count: int = NUM_IMAGES) -> np.ndarray:
    """Return photographs with noise, all different: uint8 (count, 224, 224, 3)."""
    random = np.random.default_rng(0)
    photos = np.stack(sample_photos(edge_vit.PreprocessSpec((224, 224)), 8))
    images = photos[np.arange(count) % len(photos)].astype(np.float32)
    images += random.normal(0, 12, images.shape).astype(np.float32)
    return images.clip(0, 255).astype(np.uint8)


def cpu_of_children() -> float:
    """Return the CPU seconds of processes that have ended: other work takes none of them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL, help="of timm, 224 pixels")
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--way", action="append", help="only this; repeatable")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    ways = arguments.way or (*EDGE_VIT, MODELOPT)
    load, images = load_average(), distinct_images(arguments.images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, spec = build(arguments.model)
        fp32 = model.SerializeToString()
        (folder / "fp32.onnx").write_bytes(fp32)
        np.save(folder / "images.npy", images)
        command = [sys.executable, "-c", FORWARD, folder / "fp32.onnx", folder / "images.npy", "2"]
        said = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=True
        ).stdout
        rows = {"fp32 forward passes": json.loads(said)}
        print("fp32 forward passes", rows["fp32 forward passes"], flush=True)
        for way in ways:
            # A folder of its own: nothing that an earlier run kept is taken.
            before = cpu_of_children()
            made = quantize_by(way, fp32, spec, images, kept=folder / "made")
            cpu = cpu_of_children() - before
            rows[way] = {
                "seconds": made.seconds,
                "cpu_seconds": round(cpu, 1),
                "peak_mib": made.peak_mib,
            }
            print(
                f"{way:20} {made.seconds:7.1f} s  {cpu:7.1f} CPU s  {made.peak_mib:7.0f} MiB",
                flush=True,
            )
    plain = rows["fp32 forward passes"]
    passes = {way: round(row["cpu_seconds"] / plain["cpu_seconds"], 2) for way, row in rows.items()}
    for way in ways:
        limit = LIMITS.get(way)
        kept = (
            ""
            if limit is None
            else f", limit {limit}: {'' if passes[way] <= limit else 'NOT '}kept"
        )
        print(f"{way}: {passes[way]} forward passes by the processor's time{kept}")
    shares = {}
    if {DEFAULT, MODELOPT} <= set(ways):
        for fact in ("cpu_seconds", "peak_mib"):
            shares[fact] = share = round(rows[DEFAULT][fact] / rows[MODELOPT][fact], 3)
            kept = "kept" if share <= MAX_SHARE else "NOT kept"
            print(f"{fact} of balanced over ModelOpt's: {share}, limit {MAX_SHARE}: {kept}")
    if arguments.way:
        print("a part of the ways: nothing written")
        return
    path = write_result(
        arguments.results,
        "calibration_cost" if arguments.model == MODEL else f"calibration_cost_{arguments.model}",
        threads=2,
        load=load,
        conditions={
            "model": f"{arguments.model}, weights from a seed (tests/reseed.py)",
            "images": f"{arguments.images}, photographs with noise, in memory",
            "seconds": "calibration and writing the graph, without starting Python",
            "cpu_seconds": "of the process, Python's start included; of the passes alone",
            "peak": "resident memory (VmHWM) of the process",
            "modelopt": "default INT8, float32 around it, on the CPU",
        },
        results={
            "forward_passes_by_cpu": passes,
            "share_of_modelopt": shares,
            "limits": {**LIMITS, "share_of_modelopt": MAX_SHARE},
            "runs": rows,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
