"""The benchmark for people with a GPU: it runs to its end on a simulated one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from simulated_cuda import SimulatedCuda
from simulated_engine import SimulatedEngine, load_simulated, open_simulated
from tiny_graph import golden_bundle

from edge_vit.errors import BackendError
from edge_vit.runtime.cudart import Cuda
from edge_vit.runtime.trt import api, engines

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# What trtexec prints, with the numbers changed.
PRINTED = """
[11/20/2026-10:00:00] [I] === Performance summary ===
[11/20/2026-10:00:00] [I] Throughput: 812.3 qps
[11/20/2026-10:00:00] [I] Latency: min = 1.20 ms, max = 1.90 ms, mean = 1.26 ms, median = 1.25 ms, percentile(90%) = 1.3 ms
[11/20/2026-10:00:00] [I] Enqueue Time: min = 0.01 ms, max = 0.09 ms, mean = 0.02 ms, median = 0.015 ms, percentile(90%) = 0.02 ms
[11/20/2026-10:00:00] [I] H2D Latency: min = 0.01 ms, max = 0.03 ms, mean = 0.02 ms, median = 0.02 ms, percentile(90%) = 0.02 ms
[11/20/2026-10:00:00] [I] GPU Compute Time: min = 1.17 ms, max = 1.80 ms, mean = 1.23 ms, median = 1.22 ms, percentile(90%) = 1.26 ms
[11/20/2026-10:00:00] [I] D2H Latency: min = 0.003 ms, max = 0.01 ms, mean = 0.004 ms, median = 0.004 ms, percentile(90%) = 0.005 ms
"""  # noqa: E501


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("gpu_latency", "trtexec", "saving"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu_latency

    monkeypatch.setattr(gpu_latency, "ROUNDS", 6)
    return gpu_latency


def test_measures_a_simulated_gpu_to_the_end(benchmark, monkeypatch, tmp_path, capsys):
    gpu = SimulatedCuda(integrated=True)
    opened = []

    def open_one(bundle, precision, backend, options):
        opened.append((precision, backend, options.memory, options.cuda_graph))
        if backend == "ort":
            raise BackendError("this ONNX Runtime has no CUDAExecutionProvider")
        return open_simulated(gpu, precision=precision, options=options)

    monkeypatch.setattr(benchmark, "open_cuda", lambda device, wait: Cuda(gpu, device, wait))
    monkeypatch.setattr(benchmark, "open_session", open_one)
    bundle = golden_bundle(tmp_path / "tiny.edgevit")
    words = [str(bundle.path), "--backend", "trt", "--results", str(tmp_path), "--leak-runs", "20"]
    assert benchmark.main(words) == 0
    (path,) = tmp_path.glob("gpu_latency-*.json")
    results = json.loads(path.read_text())["results"]
    assert results["cuda_layer"]["copy"]["graph_ms"] > 0
    assert results["cuda_layer"]["leaked_bytes"] == 0
    for precision in ("fp32", "int8"):
        figures = results["precisions"][precision]
        assert figures["mapped, graph"]["compute_ms"] == 1.0
        assert figures["copy, graph"]["cuda_graph"]
        assert not figures["copy, no graph"]["cuda_graph"]
        assert figures["copy, graph"]["golden_error"] < 0.01
        assert figures["leaked_bytes"] == 0
        assert "there is no trtexec" in figures["trtexec"]["skipped"]
    assert "has no CUDA" in results["onnxruntime"]["fp32"]["skipped"]
    gpu.assert_clean()


def test_sets_trtexec_beside_our_figures(benchmark, monkeypatch, tmp_path):
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\ncat << EOF{PRINTED}EOF\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    identity = SimpleNamespace(version="10.3.0")
    engine = SimpleNamespace(
        path=tmp_path / "a.engine", read=bytes, sidecar=SimpleNamespace(identity=identity)
    )
    loaded = load_simulated(SimulatedEngine(SimulatedCuda()))
    monkeypatch.setattr(engines, "find_engine", lambda *args, **options: engine)
    monkeypatch.setattr(api, "open_api", lambda name: SimpleNamespace(load=lambda plan: loaded))
    for p50_ms, keeps_goal in ((1.25, True), (1.4, False)):
        ours = {"copy, graph": {"batch": 1, "p50_ms": p50_ms, "cuda_graph": True}}
        figures = benchmark.compare_trtexec(golden_bundle(tmp_path / f"{p50_ms}"), "fp32", ours)
        assert figures["compute_ms"] == 1.22
        assert figures["wrapper_ratio"] == pytest.approx(p50_ms / 1.244, rel=1e-3)
        assert figures["keeps_goal"] == keeps_goal
    program.write_text("#!/bin/sh\necho no engine >&2\nexit 3\n")
    figures = benchmark.compare_trtexec(golden_bundle(tmp_path / "failed"), "fp32", ours)
    assert figures == {"failed": "trtexec ended with 3: no engine"}


def test_without_a_gpu_it_says_so_in_one_line(benchmark, monkeypatch, capsys):
    def refuse(device, wait):
        raise BackendError("this machine has no NVIDIA driver")

    monkeypatch.setattr(benchmark, "open_cuda", refuse)
    assert benchmark.main([]) == 1
    assert capsys.readouterr() == (
        "",
        "nothing to measure: this machine has no NVIDIA driver\n",
    )


def test_reads_what_trtexec_prints(benchmark):
    figures = benchmark.trtexec.parse(PRINTED)
    assert (figures.latency_ms, figures.compute_ms, figures.enqueue_ms) == (1.25, 1.22, 0.015)
    assert (figures.to_device_ms, figures.to_host_ms) == (0.02, 0.004)
    with pytest.raises(ValueError, match="printed no times"):
        benchmark.trtexec.parse("[E] Error[1]: no engine")


@pytest.mark.parametrize(
    ("version", "graph", "has", "has_not"),
    [
        ("10.3.0", True, "--useCudaGraph", "--includeDataTransfers"),
        ("10.16.2", False, "--useSpinWait", "--useCudaGraph"),
        ("11.4.1", True, "--includeDataTransfers", "--noCudaGraph"),
        ("11.4.1", False, "--noCudaGraph", "--useCudaGraph"),
    ],
)
def test_asks_trtexec_for_the_same_conditions(benchmark, version, graph, has, has_not):
    words = benchmark.trtexec.command(
        "trtexec", Path("a.engine"), version, ("images", "1x8x8x3"), graph=graph
    )
    assert "--loadEngine=a.engine" in words
    assert "--shapes=images:1x8x8x3" in words
    assert has in words
    assert has_not not in words
