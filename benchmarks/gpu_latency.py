"""One command for whoever has a GPU: what the CUDA layer, every precision and the wrapper cost.

    python benchmarks/gpu_latency.py cats.edgevit --backend trt

It times copies to the GPU and back in each kind of memory, alone and as a CUDA graph; builds what
engines are missing; runs each precision with and without graphs, in each kind of memory; holds the
golden images against fp32; sets trtexec's figures for the same engine beside ours, where there is
one; and looks for leaks over 10,000 runs. Without a GPU it says so in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trtexec
from saving import RESULTS, load_average, write_result

from edge_vit.bundle import Bundle
from edge_vit.errors import EdgeVitError
from edge_vit.measure.latency import measure_interleaved
from edge_vit.runtime import Session, SessionOptions, open_session
from edge_vit.runtime.backends import choose_backend
from edge_vit.runtime.cudart import Buffer, Cuda, open_cuda
from edge_vit.runtime.self_test import run_self_test

COPY_BYTES = 224 * 224 * 3  # a picture
ROUNDS, LEAK_RUNS = 300, 10_000
MEMORIES = ("copy", "mapped")
GOAL = 1.02
"""Largest ratio of our latency to trtexec's GPU and transfer time."""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status."""
    options = read_options(arguments)
    try:
        cuda = open_cuda(options.device, "spin")
    except EdgeVitError as error:
        print(f"nothing to measure: {error}", file=sys.stderr)
        return 1
    load = load_average()
    print(f"{cuda.facts.name}, sm_{''.join(map(str, cuda.facts.compute_capability))}")
    results: dict[str, Any] = {"gpu": vars(cuda.facts), "cuda_layer": measure_cuda(cuda)}
    if options.bundle is not None:
        bundle = Bundle.open(options.bundle)
        backend = choose_backend() if options.backend == "auto" else options.backend
        results["precisions"] = {
            precision: measure_precision(bundle, precision, backend, options, cuda)
            for precision in bundle.precisions
        }
        if backend != "ort":
            results["onnxruntime"] = measure_onnxruntime(bundle, options)
    path = write_result(
        options.results,
        "gpu_latency",
        threads=1,
        load=load,
        conditions={
            "bundle": str(options.bundle),
            "backend": options.backend,
            "batch": "1, or the engine's fixed batch",
            "rounds": ROUNDS,
            "wait": "spin",
            "wrapper_goal": GOAL,
        },
        results=results,
    )
    print(path)
    return 0


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="without one: the CUDA layer alone")
    parser.add_argument("--backend", default="auto", choices=["auto", "trt", "rtx", "ort"])
    parser.add_argument("--device", type=int, default=0, help="number of the GPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--leak-runs", type=int, default=LEAK_RUNS)
    return parser.parse_args(arguments)


def measure_cuda(cuda: Cuda) -> dict[str, Any]:
    """Return the time of a round trip of a picture by kind of memory, and whether memory leaks."""
    results: dict[str, Any] = {}
    kinds = [name for name in MEMORIES if has_memory(cuda, name)]
    for memory in kinds:
        with round_trip(cuda, memory) as (trip, capture):
            plain = time_ms(trip)
            results[memory] = {"plain_ms": plain}
            if memory == "copy":
                results[memory]["graph_ms"] = time_ms(capture())
        print(f"round trip of {COPY_BYTES:,} bytes, {memory:8} {results[memory]}")
    before = cuda.free_memory()[0]
    for _ in range(1000):
        with round_trip(cuda, "copy") as (trip, _capture):
            trip()
    results["leaked_bytes"] = before - cuda.free_memory()[0]
    print(f"free memory after 1,000 round trips: {-results['leaked_bytes']:+,} bytes")
    return results


def has_memory(cuda: Cuda, memory: str) -> bool:
    return memory == "copy" or cuda.facts.can_map


@contextlib.contextmanager
def round_trip(cuda: Cuda, memory: Any) -> Iterator[tuple[Any, Any]]:
    """Give what sends a picture to the GPU and back, and what makes a graph of that."""
    with contextlib.ExitStack() as stack:
        stream = cuda.create_stream()
        stack.callback(cuda.release, "cudaStreamDestroy", stream)
        buffer = Buffer(cuda, COPY_BYTES, memory)
        stack.callback(buffer.free)
        stack.callback(cuda.synchronize, stream)
        picture = np.random.default_rng(0).integers(0, 256, COPY_BYTES, dtype=np.uint8)

        def enqueue() -> None:
            buffer.upload(COPY_BYTES, stream)
            buffer.download(COPY_BYTES, stream)

        def trip() -> None:
            buffer.host[:] = picture
            enqueue()
            cuda.synchronize(stream)
            assert buffer.host[-1] == picture[-1]

        def capture() -> Any:
            cuda.begin_capture(stream)
            enqueue()
            graph = cuda.end_capture(stream)
            ready = cuda.instantiate(graph)
            cuda.release("cudaGraphDestroy", graph)
            stack.callback(cuda.release, "cudaGraphExecDestroy", ready)

            def launch() -> None:
                buffer.host[:] = picture
                cuda.launch(ready, stream)
                cuda.synchronize(stream)
                assert buffer.host[-1] == picture[-1]

            return launch

        yield trip, capture


def time_ms(work: Any) -> float:
    """Return the median milliseconds of `work`."""
    for _ in range(20):
        work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return round(statistics.median(times), 4)


def measure_precision(
    bundle: Bundle, precision: Any, backend: str, options: argparse.Namespace, cuda: Cuda
) -> dict[str, Any]:
    """Return accuracy on the golden images, latency by memory and graph, leaks, and trtexec's."""
    base = SessionOptions(1, device=options.device, wait="spin")
    if backend == "ort":
        base = replace(base, provider="cuda")
    ways = [
        replace(base, memory=memory, cuda_graph=graph)
        for memory in (MEMORIES if backend != "ort" else ("copy",))
        if has_memory(cuda, memory)
        for graph in ((True, False) if backend != "ort" else (True,))
    ]
    results: dict[str, Any] = {}
    for way in ways:
        name = f"{way.memory}, {'graph' if way.cuda_graph else 'no graph'}"
        with open_session(bundle, precision, backend, way) as session:
            results[name] = measure_session(session, bundle)
            if way is ways[0]:
                results["leaked_bytes"] = find_leak(session, cuda, options.leak_runs)
        print(f"{precision} {backend} {name:20} {results[name]}")
    if backend == "trt":
        results["trtexec"] = compare_trtexec(bundle, precision, results)
        print(f"{precision} trtexec {results['trtexec']}")
    return results


def measure_session(session: Session, bundle: Bundle) -> dict[str, Any]:
    """Return the error on the golden images, and medians of latency and of its parts."""
    tested = run_self_test(session, bundle)
    batch = session.batch_range[0] if session.batch_range else 1
    (report,) = measure_interleaved([session], batch_size=batch, warmup=20, iterations=ROUNDS)
    splits = []
    feed = {session.inputs[0].name: np.zeros(input_shape(session, batch), np.uint8)}
    for _ in range(ROUNDS):
        session.run(feed)
        splits.append(vars(session.last_split) if session.last_split else {})
    parts = {name: statistics.median(split[name] for split in splits) for name in splits[0]}
    return {
        "golden_error": None if tested is None else round(tested.error, 5),
        "p50_ms": round(report.latency_ms.p50, 4),
        "p99_ms": round(report.latency_ms.p99, 4),
        "batch": batch,
        "cuda_graph": session.uses_graph,
        **{name: round(value, 4) for name, value in parts.items()},
    }


def input_shape(session: Session, batch: int) -> tuple[int, ...]:
    return (batch, *(int(size) for size in session.inputs[0].shape[1:]))


def find_leak(session: Session, cuda: Cuda, runs: int) -> int:
    """Return by how many bytes the GPU's free memory shrinks over `runs` runs."""
    batch = session.batch_range[0] if session.batch_range else 1
    feed = {session.inputs[0].name: np.zeros(input_shape(session, batch), np.uint8)}
    for _ in range(10):
        session.run(feed)
    before = cuda.free_memory()[0]
    for _ in range(runs):
        session.run(feed)
    return before - cuda.free_memory()[0]


def compare_trtexec(bundle: Bundle, precision: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Return trtexec's medians for the same engine, and our latency over its own."""
    from edge_vit.runtime.trt.api import open_api
    from edge_vit.runtime.trt.engines import find_engine

    program = trtexec.find_trtexec()
    if program is None:
        return {"skipped": f"there is no trtexec on PATH or at {trtexec.JETSON}"}
    engine = find_engine(bundle, precision, "trt", may_build=False)
    loaded = open_api("trt").load(engine.read())
    name, tensor = next((n, t) for n, t in loaded.tensors.items() if t.is_input)
    ours = results["copy, graph"]
    shape = (name, "x".join(map(str, (ours["batch"], *tensor.shape[1:]))))
    loaded.close()
    words = trtexec.command(
        program,
        engine.path,
        engine.sidecar.identity.version,
        shape if -1 in tensor.shape else None,
        graph=bool(ours["cuda_graph"]),
    )
    try:
        theirs = trtexec.run(words)
    except ValueError as error:
        return {"failed": str(error)}
    total = theirs.to_device_ms + theirs.compute_ms + theirs.to_host_ms
    ratio = ours["p50_ms"] / total
    return {**vars(theirs), "wrapper_ratio": round(ratio, 4), "keeps_goal": ratio <= GOAL}


def measure_onnxruntime(bundle: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    """Return the same for ONNX Runtime's CUDA provider, or why there is none."""
    results: dict[str, Any] = {}
    way = SessionOptions(1, device=options.device, provider="cuda")
    for precision in bundle.precisions:
        try:
            with open_session(bundle, precision, "ort", way) as session:
                results[precision] = measure_session(session, bundle)
        except EdgeVitError as error:
            results[precision] = {"skipped": str(error)}
        print(f"{precision} ort cuda {results[precision]}")
    return results


if __name__ == "__main__":
    sys.exit(main())
