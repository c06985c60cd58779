from __future__ import annotations

import logging

import numpy as np
import pytest
import session_drill
import simulated_engine
from simulated_cuda import SimulatedCuda
from simulated_engine import SimulatedEngine, load_simulated, open_simulated
from tiny_graph import tiny_images, tiny_outputs, tiny_spec

from edge_vit.errors import BackendError, SpecError
from edge_vit.runtime import SessionOptions, run_batch
from edge_vit.runtime.cudart import Cuda
from edge_vit.runtime.trt.session import EngineFile, RtxSession, TrtSession


@pytest.mark.parametrize("part", session_drill.PARTS, ids=lambda part: part.__name__)
def test_passes_the_drill(part):
    part(simulated_engine)


@pytest.mark.uncounted
def test_ten_thousand_runs_take_no_memory():
    gpu = SimulatedCuda()
    images, expected = tiny_images(1), tiny_outputs(tiny_images(1))
    with open_simulated(gpu) as session:
        for _ in range(3):
            session.run({"images": images})
        held, handles, counts = len(gpu.blocks), len(gpu.handles), gpu.counts.copy()
        for _ in range(10_000):
            logits = session.run({"images": images})["logits"]
        np.testing.assert_array_equal(logits, expected)
        assert (len(gpu.blocks), len(gpu.handles)) == (held, handles)
        assert (gpu.counts - counts)["cudaGraphLaunch"] == 10_000
        assert not {"cudaMalloc", "cudaHostAlloc"} & (gpu.counts - counts).keys()
    gpu.assert_clean()


@pytest.mark.parametrize("kind", [TrtSession, RtxSession])
def test_says_what_it_is(kind):
    with open_simulated(kind=kind) as session:
        assert session.is_on_gpu
        assert session.backend == {TrtSession: "trt", RtxSession: "rtx"}[kind]
        assert (session.inputs, session.outputs) == (tiny_spec().inputs, tiny_spec().outputs)


def test_a_fixed_batch_of_the_engine_is_one_of_the_session():
    images = tiny_images(7)
    with open_simulated(engine=SimulatedEngine(SimulatedCuda(), batch=3)) as session:
        assert session.inputs == tiny_spec(3).inputs
        np.testing.assert_array_equal(run_batch(session, images), tiny_outputs(images))


def test_without_graphs_none_is_captured():
    gpu = SimulatedCuda()
    with open_simulated(gpu, options=SessionOptions(cuda_graph=False)) as session:
        for _ in range(4):
            session.run({"images": tiny_images(2)})
        assert not session.uses_graph
    assert not gpu.counts["cudaStreamBeginCapture"]


def test_a_capture_that_fails_is_told_once(caplog):
    engine = SimulatedEngine(SimulatedCuda())
    engine.refuses_capture = True
    with caplog.at_level(logging.WARNING), open_simulated(engine=engine) as session:
        for _ in range(5):
            session.run({"images": tiny_images(2)})
    (record,) = caplog.records
    assert record.getMessage().startswith("running without a CUDA graph")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"images": (-1, 16, 16, 3)},
            r"tensor 'images' is uint8 \(-1, 16, 16, 3\), expected uint8 \(batch, 8, 8, 3\)",
            id="size",
        ),
        pytest.param({"logits": (-1, 7)}, r"'logits' is float32 \(-1, 7\)", id="classes"),
    ],
)
def test_refuses_the_engine_of_another_model(change, message):
    engine = SimulatedEngine(SimulatedCuda())
    engine.shapes |= change
    with pytest.raises(BackendError, match=rf"tiny\.engine is no engine of this model.*{message}"):
        open_simulated(engine=engine)


def test_refuses_an_engine_of_other_types():
    engine = SimulatedEngine(SimulatedCuda(), output_type="HALF")
    with pytest.raises(BackendError, match=r"'logits' is float16 \(-1, 5\), expected float32"):
        open_simulated(engine=engine)


def test_refuses_memory_that_the_gpu_does_not_have():
    with pytest.raises(SpecError, match="memory: got 'mapped'"):
        open_simulated(SimulatedCuda(can_map=False), options=SessionOptions(memory="mapped"))


def test_too_little_memory_at_the_start_leaves_nothing():
    gpu = SimulatedCuda()
    gpu.fail("cudaEventCreateWithFlags", 2, nth=3)
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        open_simulated(gpu)
    gpu.assert_clean()


class RtxContexts:
    """A simulated engine whose contexts keep kernels, as RTX's do."""

    def __init__(self, engine):
        self._loaded = load_simulated(engine)
        self.tensors = self._loaded.tensors
        self.close = self._loaded.close
        self.asked = []

    def create_context(self, *, captures_graphs=False, runtime_cache=None):
        self.asked.append((captures_graphs, runtime_cache))
        context = self._loaded.create_context()
        context.runtime_cache = lambda: None if runtime_cache is None else b"kernels"
        return context


@pytest.mark.parametrize("wants_graphs", [True, False])
def test_rtx_makes_its_own_graphs_and_keeps_its_kernels(tmp_path, wants_graphs):
    cache, options = tmp_path / "tiny.kernels", SessionOptions(cuda_graph=wants_graphs)
    for kernels in (b"", b"kernels"):
        gpu = SimulatedCuda()
        engine = RtxContexts(SimulatedEngine(gpu))
        file = EngineFile(engine, "tiny.engine", captures_graphs=True, cache_path=cache)
        with RtxSession(file, Cuda(gpu), tiny_spec(), "fp16", options) as session:
            for _ in range(3):
                session.run({"images": tiny_images(2)})
        assert engine.asked == [(wants_graphs, kernels)]
        assert cache.read_bytes() == b"kernels"
        assert not gpu.counts["cudaStreamBeginCapture"]
        gpu.assert_clean()


def test_a_place_where_kernels_cannot_be_kept_harms_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    gpu = SimulatedCuda()
    path = tmp_path / "file" / "tiny.kernels"
    file = EngineFile(RtxContexts(SimulatedEngine(gpu)), "tiny.engine", True, path)
    with RtxSession(file, Cuda(gpu), tiny_spec(), "fp16") as session:
        session.run({"images": tiny_images(2)})
    gpu.assert_clean()
