"""What a calibration costs on ViT-S/16 at 224 pixels with 256 images, beside ModelOpt.

Each runs in a process of its own on the same graph and images: plain fp32 forward passes over the
images, edge-vit's recipes, and ModelOpt's default. Weights are drawn from a seed, biases and norms
too (tests/reseed.py), so that every step of a recipe has something to try at every layer.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from full_size import build
from peers import EDGE_VIT, quantize_by
from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.export.parity import sample_photos

MODEL, NUM_IMAGES = "vit_small_patch16_224", 256
MODELOPT = "ModelOpt"
LIMITS = {"edge-vit fast": 2.0, "edge-vit balanced": 5.0}
"""How many times the plain forward passes a recipe may take."""

MAX_SHARE = 0.5
"""Of ModelOpt's time and of its peak memory, for the default."""

FORWARD = """
import json, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
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


def distinct_images() -> np.ndarray:
    """Return photographs with noise, all different: uint8 (256, 224, 224, 3)."""
    random = np.random.default_rng(0)
    photos = np.stack(sample_photos(edge_vit.PreprocessSpec((224, 224)), 8))
    images = photos[np.arange(NUM_IMAGES) % len(photos)].astype(np.float32)
    images += random.normal(0, 12, images.shape).astype(np.float32)
    return images.clip(0, 255).astype(np.uint8)


def cpu_of_children() -> float:
    """Return the CPU seconds of processes that have ended: other work takes none of them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    arguments = read_arguments(__doc__)
    load, images = load_average(), distinct_images()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, spec = build(MODEL)
        fp32 = model.SerializeToString()
        (folder / "fp32.onnx").write_bytes(fp32)
        np.save(folder / "images.npy", images)
        command = [sys.executable, "-c", FORWARD, folder / "fp32.onnx", folder / "images.npy", "2"]
        said = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=True
        ).stdout
        rows = {"fp32 forward passes": json.loads(said)}
        print("fp32 forward passes", rows["fp32 forward passes"], flush=True)
        for way in (*EDGE_VIT, MODELOPT):
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
    times, cpu_times = (
        {way: round(rows[way][unit] / plain[unit], 2) for way in EDGE_VIT}
        for unit in ("seconds", "cpu_seconds")
    )
    shares = {
        fact: round(rows["edge-vit balanced"][fact] / rows[MODELOPT][fact], 3)
        for fact in ("seconds", "peak_mib")
    }
    for way, limit in LIMITS.items():
        kept = "kept" if times[way] <= limit else "NOT kept"
        print(
            f"{way}: {times[way]} forward passes ({cpu_times[way]} by CPU time), "
            f"limit {limit}: {kept}"
        )
    for fact, share in shares.items():
        kept = "kept" if share <= MAX_SHARE else "NOT kept"
        print(f"{fact} of balanced over ModelOpt's: {share}, limit {MAX_SHARE}: {kept}")
    path = write_result(
        arguments.results,
        "calibration_cost",
        threads=2,
        load=load,
        conditions={
            "model": f"{MODEL}, weights from a seed (tests/reseed.py)",
            "images": f"{NUM_IMAGES}, photographs with noise, in memory",
            "seconds": "calibration and writing the graph, without starting Python",
            "cpu_seconds": "of the process, Python's start included; of the passes alone",
            "peak": "resident memory (VmHWM) of the process",
            "modelopt": "default INT8, float32 around it, on the CPU",
        },
        results={
            "forward_passes": times,
            "forward_passes_by_cpu": cpu_times,
            "share_of_modelopt": shares,
            "limits": {**LIMITS, "share_of_modelopt": MAX_SHARE},
            "runs": rows,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
