"""What a GPU session is put through: `drill` fails where anything that it does is wrong.

It takes the tools as an argument, so that the same drill meets a session with a bug put into it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from simulated_cuda import SimulatedCuda
from tiny_graph import tiny_images, tiny_outputs

from edge_vit.errors import BackendError, DeviceLostError, EdgeVitError, ShapeError
from edge_vit.runtime import SessionOptions

SECONDS = 60.0
"""What a call may take on a busy machine before it counts as hanging."""

BATCHES = (3, 3, 3, 1, 1, 8, 8, 8, 3, 3, 3)

FAILING_CALLS = (
    "cudaSetDevice",
    "cudaHostAlloc",
    "cudaMalloc",
    "cudaMemcpyAsync",
    "cudaStreamCreateWithFlags",
    "cudaStreamSynchronize",
    "cudaEventCreateWithFlags",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaEventElapsedTime",
    "cudaStreamBeginCapture",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
)


def drill(tools: ModuleType) -> None:
    """Put the sessions of `tools`, which is `simulated_engine`, through everything."""
    for part in PARTS:
        part(tools)


def answers(session: Any, batch: int, seed: int = 0) -> None:
    """The session says what the graph says."""
    images = tiny_images(batch, seed)
    np.testing.assert_array_equal(session.run({"images": images})["logits"], tiny_outputs(images))


def ends_clean(gpu: SimulatedCuda, engine: Any) -> None:
    """Nothing is left, and nothing was done wrong."""
    assert engine.num_contexts == 0
    gpu.assert_clean()


def in_time(call: Callable[[], Any]) -> Any:
    """Return what `call` returns; it does not wait for what never comes."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(timeout=SECONDS)
    assert answers, "it hangs, or failed"
    return answers[0]


def gpu_and_engine(tools: ModuleType, **settings: Any) -> tuple[SimulatedCuda, Any]:
    gpu = SimulatedCuda(**settings)
    return gpu, tools.SimulatedEngine(gpu)


def each_memory(tools: ModuleType) -> None:
    for memory in ("copy", "mapped"):
        gpu, engine = gpu_and_engine(tools)
        kept = []
        with tools.open_simulated(engine=engine, options=SessionOptions(memory=memory)) as session:
            for seed, batch in enumerate(BATCHES):
                images = tiny_images(batch, seed)
                kept.append((images, session.run({"images": images})["logits"]))
                split, copied = session.last_split, memory == "copy"
                assert split.to_device_ms == (images.nbytes / 1e6 if copied else 0)
                assert split.compute_ms == batch
                assert split.to_host_ms == (batch * 20 / 1e6 if copied else 0)
        for images, logits in kept:
            np.testing.assert_array_equal(logits, tiny_outputs(images))
        ends_clean(gpu, engine)
        captures = 4  # one for each shape that came twice, and again after another one
        assert gpu.counts["cudaGraphInstantiate"] == captures
        assert gpu.counts["cudaGraphLaunch"] == len(BATCHES) - captures
        assert engine.enqueues == 2 * captures


def no_growth(tools: ModuleType) -> None:
    gpu, engine = gpu_and_engine(tools)
    with tools.open_simulated(engine=engine) as session:
        for batch in (8, 1, 1):
            answers(session, batch)
        held, before = len(gpu.blocks), gpu.counts.copy()
        for _ in range(5):
            answers(session, 1)
        spent = gpu.counts - before
        assert len(gpu.blocks) == held
        calls = {"cudaGraphLaunch": 1, "cudaMemcpyAsync": 2, "cudaEventRecord": 4}
        calls |= {"cudaEventSynchronize": 1, "cudaEventElapsedTime": 3, "cudaSetDevice": 1}
        assert spent == {name: 5 * count for name, count in calls.items()}
    assert session._file.engine._native is None
    ends_clean(gpu, engine)


def no_graph(tools: ModuleType) -> None:
    gpu, engine = gpu_and_engine(tools)
    engine.refuses_capture = True
    with tools.open_simulated(engine=engine) as session:
        for batch in BATCHES:
            answers(session, batch)
        assert not session.uses_graph
    assert gpu.counts["cudaStreamBeginCapture"] == 1
    ends_clean(gpu, engine)


def refused_run(tools: ModuleType) -> None:
    for at in (1, 2, 3):
        gpu, engine = gpu_and_engine(tools)
        engine.fails_at = at
        failures = 0
        with tools.open_simulated(engine=engine) as session:
            for batch in (2, 2, 3, 3, 3):
                try:
                    answers(session, batch)
                except BackendError:
                    failures += 1
        assert failures == (0 if at == 2 else 1)  # the second is in a capture, and is done without
        ends_clean(gpu, engine)


def one_failing_call(tools: ModuleType) -> None:
    for name in FAILING_CALLS:
        for nth in (1, 2, 3, 5):
            gpu, engine = gpu_and_engine(tools)
            gpu.fail(name, 2 if "lloc" in name else 400, nth)
            try:
                session = tools.open_simulated(engine=engine)
            except EdgeVitError:
                ends_clean(gpu, engine)
                continue
            failures = 0
            for batch in (1, 1, 1, 4, 4, 4):
                try:
                    answers(session, batch)
                except EdgeVitError:
                    failures += 1
            assert failures <= 1
            try:
                session.close()
            except EdgeVitError:
                assert not failures
            ends_clean(gpu, engine)


def little_memory(tools: ModuleType) -> None:
    gpu, engine = gpu_and_engine(tools, memory=1000)
    with tools.open_simulated(engine=engine) as session:
        answers(session, 2)
        with pytest.raises(BackendError, match=r"cudaErrorMemoryAllocation.*Use a smaller batch"):
            answers(session, 8)
        answers(session, 4)
    ends_clean(gpu, engine)


def lost(tools: ModuleType) -> None:
    gpu, engine = gpu_and_engine(tools)
    with tools.open_simulated(engine=engine) as session:
        answers(session, 2)
        engine.dies_at = engine.enqueues + 1
        with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
            answers(session, 3)
    assert not gpu.violations
    assert engine.num_contexts == 0


def threads(tools: ModuleType) -> None:
    gpu, engine = gpu_and_engine(tools, devices=2)
    session = tools.open_simulated(engine=engine, options=SessionOptions(device=1))
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        try:
            for turn in range(6):
                answers(session, 1 + (seed + turn // 3) % 3, seed)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=20)
    assert not any(worker.is_alive() for worker in workers)
    session.close()
    assert not errors
    ends_clean(gpu, engine)


def two_gpus(tools: ModuleType) -> None:
    """One thread, two GPUs: each session takes the thread to its own before it works."""
    gpu = SimulatedCuda(devices=2)
    engines = [tools.SimulatedEngine(gpu) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(tools.open_simulated(engine=e, options=SessionOptions(device=i)))
            for i, e in enumerate(engines)
        ]
        for seed in range(3):
            for session in sessions:
                answers(session, 2, seed)
    for engine in engines:
        ends_clean(gpu, engine)


def fixed_batch(tools: ModuleType) -> None:
    gpu = SimulatedCuda(integrated=True)
    engine = tools.SimulatedEngine(gpu, batch=4)
    with tools.open_simulated(engine=engine) as session:
        for seed in range(4):
            answers(session, 4, seed)
        assert session.uses_graph
        assert session.memory == "mapped"
        with pytest.raises(ShapeError, match=r"expected uint8 \(4, 8, 8, 3\)"):
            answers(session, 3)
    ends_clean(gpu, engine)


PARTS = (
    each_memory,
    no_growth,
    no_graph,
    refused_run,
    one_failing_call,
    little_memory,
    lost,
    threads,
    two_gpus,
    fixed_batch,
)
