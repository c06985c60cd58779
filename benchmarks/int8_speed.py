"""How fast INT8 is against fp32 on this CPU, on ViT-S/16 at 224 pixels, by runtime and quantizer.

On x86 it hangs on the processor: AMX and VNNI multiply and add INT8 in one instruction, AVX2 alone
needs several. The result names what the processor has. Weights are random, which latency does not
notice. ``--peers`` times what ONNX Runtime's own quantizer (all operators) and OpenVINO's NNCF
(preset for transformers) make of the same graph and images, in the same rounds; see `peers.py`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.data.images import ArraySource
from edge_vit.export.parity import sample_photos
from edge_vit.export.sources import SourceRequest
from edge_vit.measure.latency import measure_interleaved
from edge_vit.measure.speed import median_ratio_interval
from edge_vit.runtime.backends import available_backends
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.ov import OpenVinoSession
from edge_vit.runtime.session import Session, SessionOptions
from edge_vit.values import to_json

MODEL, BATCH_SIZES, ROUNDS, WARMUP = "vit_small_patch16_224", (1, 8), 100, 5
REFERENCE, NNCF = "fp32, ort", "NNCF's INT8, openvino"


def main() -> None:
    arguments = read_arguments(__doc__, peers="time other quantizers too; installs them in build/")
    load, results = load_average(), []
    photos = np.stack(list(sample_photos(edge_vit.PreprocessSpec((224, 224)), 16)))
    options = SessionOptions(arguments.threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bundle = edge_vit.export_bundle(
            SourceRequest(f"edgevit:{MODEL}", random_weights=True),
            Path(folder) / "vit.edgevit",
            precision="int8",
            calibration=ArraySource(photos),
        )
        sessions = open_ours(bundle, options)
        if arguments.peers:
            sessions |= open_peers(bundle, photos, options)
        for session in sessions.values():
            stack.enter_context(session)
        for batch_size in BATCH_SIZES:
            results.append(time_all(sessions, batch_size, photos))
            show(results[-1])
    path = write_result(
        arguments.results,
        "int8_speed",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights",
            "warmup": WARMUP,
            "order": "interleaved; each round begins with the next session",
            "interval": "bootstrap over whole rounds, 95 %, two-sided",
            "auto": available_backends()[0],
        },
        results=results,
    )
    print(path)


def open_ours(bundle: edge_vit.Bundle, options: SessionOptions) -> dict[str, Session]:
    """Return a session for each way in which edge-vit runs the model on a CPU."""
    sessions: dict[str, Session] = {}
    for backend in ("ort", "openvino"):
        if backend in available_backends():
            for precision in ("fp32", "int8"):
                session = edge_vit.open_session(bundle, precision, backend, options)
                sessions[f"{precision}, {backend}"] = session
    portable = bundle.read(bundle.graph("int8", "openvino"))
    sessions["INT8, portable file, ort"] = OrtSession(portable, "int8", options)
    if "openvino" in available_backends():
        # The name of a precision alone decides whether bfloat16 is let in around INT8.
        exact = OpenVinoSession(portable, "fp32", options)
        sessions["INT8 with float32 around it, openvino"] = exact
    return sessions


def open_peers(
    bundle: edge_vit.Bundle, photos: np.ndarray, options: SessionOptions
) -> dict[str, Session]:
    """Return a session for what each other quantizer made of the same graph and images."""
    from peers import quantize_by

    def quantize(way: str) -> Path:
        return quantize_by(way, bundle.read_graph(), bundle.spec, photos).path

    sessions: dict[str, Session] = {
        "ONNX Runtime's own static INT8, ort": OrtSession(
            quantize("ONNX Runtime static").read_bytes(), "int8", options
        )
    }
    if "openvino" in available_backends():
        path = quantize("NNCF transformer")
        sessions[NNCF] = NncfSession(path, bundle, options)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        sessions[f"{NNCF}, float32 around it"] = NncfSession(path, bundle, options, exact)
    return sessions


class NncfSession(Session):
    """OpenVINO's own file, with OpenVINO's own settings, compiled for each batch size it gets."""

    backend = "openvino"

    def __init__(
        self,
        path: Path,
        bundle: edge_vit.Bundle,
        options: SessionOptions,
        more: Mapping[str, str] = {},
    ) -> None:
        import openvino

        spec = bundle.spec
        super().__init__(
            precision="int8", inputs=spec.inputs, outputs=spec.outputs, threads=options.num_threads
        )
        self._core, self._path, self._requests = openvino.Core(), path, {}
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.num_threads,
            **more,
        }

    def _run(self, feeds):
        images = feeds[self.inputs[0].name]
        if len(images) not in self._requests:
            graph = self._core.read_model(self._path)
            graph.reshape(list(images.shape))
            compiled = self._core.compile_model(graph, "CPU", self._settings)
            self._requests[len(images)] = compiled.create_infer_request()
        outputs = self._requests[len(images)].infer({0: images}, share_inputs=True)
        return {self.outputs[0].name: outputs[0]}

    def _close(self) -> None:
        self._requests.clear()


def time_all(
    sessions: Mapping[str, Session], batch_size: int, photos: np.ndarray
) -> dict[str, object]:
    """Return the latency of each session, and how much faster than fp32 in ONNX Runtime it is."""
    reports = measure_interleaved(
        list(sessions.values()),
        batch_size=batch_size,
        warmup=WARMUP,
        iterations=ROUNDS // batch_size + 10,
        images=photos,
    )
    timed = dict(zip(sessions, reports, strict=True))
    reference = timed[REFERENCE]
    return {
        "batch_size": batch_size,
        "rounds": reference.iterations,
        "latency_ms": {name: to_json(report.latency_ms) for name, report in timed.items()},
        "speedup": {
            name: {
                "median": reference.latency_ms.p50 / report.latency_ms.p50,
                "interval_95": median_ratio_interval(reference.samples_ms, report.samples_ms),
            }
            for name, report in timed.items()
            if name != REFERENCE
        },
    }


def show(result: Mapping[str, object]) -> None:
    print(f"batch {result['batch_size']}")
    speedups = result["speedup"]
    for name, latency in result["latency_ms"].items():
        speedup = speedups.get(name)
        ratio = (
            f"{speedup['median']:.2f}x ({speedup['interval_95'].low:.2f} to "
            f"{speedup['interval_95'].high:.2f})"
            if speedup
            else ""
        )
        print(f"  {name:42s} {latency['p50']:7.1f} ms  {ratio}")


if __name__ == "__main__":
    main()
