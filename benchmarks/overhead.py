"""What `Session.run` costs over ONNX Runtime called directly, on ViT-S/16 at 224 pixels.

Three sessions take turns on the same images: edge-vit's, ONNX Runtime's own with the same
settings, and a second one of ONNX Runtime's own. The ratio of the last two is 1 but for noise: it
says how far the first ratio can be trusted.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.export.sources import SourceRequest
from edge_vit.measure.speed import median_ratio_interval

MODEL, ROUNDS, WARMUP, NUM_IMAGES = "vit_small_patch16_224", 200, 10, 8
LIMIT = 1.03


def open_raw(model: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def measure(threads: int) -> dict[str, list[float]]:
    """Return the milliseconds of every round, by who ran it."""
    with tempfile.TemporaryDirectory() as folder:
        request = SourceRequest(f"edgevit:{MODEL}", random_weights=True)
        bundle = edge_vit.export_bundle(request, Path(folder) / "vit.edgevit")
        model = bundle.read_graph()
        ours = edge_vit.open_session(bundle, options=edge_vit.SessionOptions(threads))
    raw, control = open_raw(model, threads), open_raw(model, threads)
    runners = {
        "edge_vit": ours.run,
        "onnxruntime": lambda feed: raw.run(["logits"], feed),
        "onnxruntime_again": lambda feed: control.run(["logits"], feed),
    }
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 1, 224, 224, 3), dtype=np.uint8)
    samples: dict[str, list[float]] = {name: [] for name in runners}
    names = itertools.cycle(runners)
    for number in range(WARMUP + ROUNDS):
        feed = {"images": images[number % NUM_IMAGES]}
        for name in itertools.islice(names, len(runners)):
            start = time.perf_counter_ns()
            runners[name](feed)
            elapsed_ms = (time.perf_counter_ns() - start) / 1e6
            if number >= WARMUP:
                samples[name].append(elapsed_ms)
        next(names)  # the next round begins with another one
    ours.close()
    return samples


def main() -> None:
    arguments = read_arguments(__doc__)
    load = load_average()
    samples = measure(arguments.threads)
    medians = {name: float(np.median(times)) for name, times in samples.items()}
    base = samples["onnxruntime"]
    ratios = {
        name: {
            "ratio": medians[name] / medians["onnxruntime"],
            "interval_95": median_ratio_interval(samples[name], base),
        }
        for name in ("edge_vit", "onnxruntime_again")
    }
    for name, median in medians.items():
        print(f"{name:20} median {median:8.3f} ms")
    for name, ratio in ratios.items():
        low, high = ratio["interval_95"]
        print(f"{name:20} over onnxruntime: {ratio['ratio']:.4f} ({low:.4f} to {high:.4f})")
    print(f"limit {LIMIT}: {'kept' if ratios['edge_vit']['ratio'] <= LIMIT else 'NOT kept'}")
    path = write_result(
        arguments.results,
        "overhead",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights, fp32, batch 1",
            "rounds": ROUNDS,
            "warmup": WARMUP,
            "order": "interleaved; each round begins with another session",
            "interval": "bootstrap over whole rounds, 95 %, two-sided",
        },
        results={"limit": LIMIT, "median_ms": medians, "over_onnxruntime": ratios},
    )
    print(path)


if __name__ == "__main__":
    main()
