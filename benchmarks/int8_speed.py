"""How fast INT8 is against fp32 in ONNX Runtime on this CPU, on ViT-S/16 at 224 pixels.

On x86 it hangs on the processor: VNNI multiplies and adds INT8 in one instruction, AVX2 alone needs
several. The result names what the processor has. Weights are random, which latency does not notice.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.export.parity import sample_photos
from edge_vit.export.sources import SourceRequest
from edge_vit.images import ArraySource
from edge_vit.measure.latency import measure_interleaved
from edge_vit.measure.ratio import median_ratio_interval
from edge_vit.values import to_json

MODEL, BATCH_SIZES, ROUNDS, WARMUP = "vit_small_patch16_224", (1, 8), 100, 5


def main() -> None:
    arguments = read_arguments(__doc__)
    load, results = load_average(), []
    photos = sample_photos(edge_vit.PreprocessSpec((224, 224)), 16)
    options = edge_vit.SessionOptions(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bundle = edge_vit.export_bundle(
            SourceRequest(f"edgevit:{MODEL}", random_weights=True),
            Path(folder) / "vit.edgevit",
            precision="int8",
            calibration=ArraySource(photos),
        )
        fp32, int8 = (
            stack.enter_context(edge_vit.open_session(bundle, precision, options=options))
            for precision in ("fp32", "int8")
        )
        for batch_size in BATCH_SIZES:
            slow, fast = measure_interleaved(
                [fp32, int8],
                batch_size=batch_size,
                warmup=WARMUP,
                iterations=ROUNDS // batch_size + 10,
                images=photos,
            )
            ratio = slow.latency_ms.p50 / fast.latency_ms.p50
            interval = median_ratio_interval(slow.samples_ms, fast.samples_ms)
            results.append(
                {
                    "batch_size": batch_size,
                    "rounds": slow.iterations,
                    "fp32_ms": to_json(slow.latency_ms),
                    "int8_ms": to_json(fast.latency_ms),
                    "speedup": ratio,
                    "interval_95": interval,
                }
            )
            print(
                f"batch {batch_size}: fp32 {slow.latency_ms.p50:.1f} ms, int8 "
                f"{fast.latency_ms.p50:.1f} ms, {ratio:.2f}x ({interval.low:.2f} to "
                f"{interval.high:.2f})"
            )
    path = write_result(
        arguments.results,
        "int8_speed",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights",
            "graphs": "onnx/fp32.onnx, onnx/int8.cpu.onnx",
            "warmup": WARMUP,
            "order": "interleaved; each round begins with the other session",
            "interval": "bootstrap over whole rounds, 95 %, two-sided",
        },
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
