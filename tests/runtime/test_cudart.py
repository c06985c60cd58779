from __future__ import annotations

import threading

import numpy as np
import pytest
from simulated_cuda import SimulatedCuda
from simulated_cuda_parts import Violation

from edge_vit.errors import BackendError, DeviceLostError, MissingDependencyError, SpecError
from edge_vit.runtime.cudart import Buffer, Cuda, GpuFacts, choose_memory, gpu, open_cuda

MIB = 1 << 20


@pytest.fixture
def sim():
    return SimulatedCuda()


@pytest.fixture
def cuda(sim):
    return Cuda(sim)


def test_says_what_the_gpu_is():
    facts = Cuda(SimulatedCuda(integrated=True, devices=2, driver=13020), 1).facts
    assert facts == GpuFacts(1, "Simulated GPU", (8, 7), True, True, (13, 2), (13, 0))


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        pytest.param(
            {"driver": 0},
            "this machine has no NVIDIA driver (cudaGetDeviceCount: cudaErrorInsufficientDriver). "
            "To run on the CPU: --backend ort",
            id="no driver",
        ),
        pytest.param(
            {"driver": 12020},
            "the NVIDIA driver knows CUDA 12.2, the CUDA runtime is 13.0 (cudaGetDeviceCount: "
            "cudaErrorInsufficientDriver). Update the driver, or take the runtime that fits it: "
            "pip install 'edge-vit[cuda12]'",
            id="old driver",
        ),
        pytest.param(
            {"devices": 0},
            "the NVIDIA driver sees no GPU. Does nvidia-smi list it, or is it hidden by "
            "CUDA_VISIBLE_DEVICES? To run on the CPU: --backend ort",
            id="no GPU",
        ),
    ],
)
def test_says_in_one_line_why_there_is_no_gpu(machine, message):
    with pytest.raises(BackendError) as caught:
        Cuda(SimulatedCuda(**machine))
    assert str(caught.value) == message


def test_a_driver_of_another_version_is_named(sim):
    sim.fail("cudaGetDeviceCount", 803)
    with pytest.raises(BackendError, match=r"SystemDriverMismatch\)\. Restart this machine"):
        Cuda(sim)


def test_refuses_a_gpu_that_is_not_there(sim):
    with pytest.raises(SpecError, match="device: got 3, expected 0 to 0"):
        Cuda(sim, 3)


def test_without_a_driver_the_real_library_says_so():
    """This machine may have a GPU; where it has none, the real library is asked."""
    try:
        facts = open_cuda().facts
    except BackendError as error:
        assert "driver" in str(error)
        assert "\n" not in str(error)
    else:
        assert facts.compute_capability >= (5, 0)


def test_says_how_to_install_the_runtime_library(monkeypatch):
    monkeypatch.setattr(gpu, "load_cudart", lambda: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edge-vit\[cuda13\]'"):
        open_cuda()


def test_opens_the_library_that_is_found(monkeypatch, sim):
    monkeypatch.setattr(gpu, "load_cudart", lambda: sim)
    assert open_cuda().facts.name == "Simulated GPU"


@pytest.mark.parametrize(("wait", "device_flags", "event_flags"), [("block", 4, 1), ("spin", 1, 0)])
def test_waits_as_asked(sim, wait, device_flags, event_flags):
    event = Cuda(sim, wait=wait).create_event()
    assert sim.device_flags == device_flags
    assert sim.handles[event].flags == event_flags


def test_a_context_that_is_active_already_is_no_error(sim):
    sim.fail("cudaSetDeviceFlags", 708)
    Cuda(sim)


def test_every_thread_gets_the_gpu():
    sim = SimulatedCuda(devices=2)
    cuda = Cuda(sim, 1)
    stream, errors = cuda.create_stream(), []

    def work(binds: bool) -> None:
        if binds:
            cuda.bind_thread()
        try:
            sim.submit(stream, lambda queue: None)
        except Violation as violation:
            errors.append(violation)

    for binds in (True, False):
        thread = threading.Thread(target=work, args=(binds,))
        thread.start()
        thread.join()
    assert len(errors) == 1


@pytest.mark.parametrize("strategy", ["copy", "mapped"])
def test_bytes_go_to_the_gpu_and_back(strategy):
    sim = SimulatedCuda()
    cuda = Cuda(sim)
    stream = cuda.create_stream()
    buffer = Buffer(cuda, 64, strategy)
    buffer.host[:16] = range(16)
    buffer.upload(16, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(sim.find(buffer.device, 16, "device").data, range(16))
    sim.find(buffer.device, 16, "device").data[:] = 7
    buffer.download(16, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(buffer.host[:16], 7)
    buffer.free()
    assert not buffer.host.size
    cuda.release("cudaStreamDestroy", stream)
    sim.assert_clean()
    assert sim.counts["cudaMemcpyAsync"] == (2 if strategy == "copy" else 0)


@pytest.mark.parametrize(
    ("strategy", "machine", "chosen"),
    [
        ("auto", {}, "copy"),
        ("auto", {"integrated": True}, "mapped"),
        ("auto", {"integrated": True, "can_map": False}, "copy"),
        ("copy", {"integrated": True}, "copy"),
        ("mapped", {}, "mapped"),
    ],
)
def test_chooses_memory_by_the_gpu(strategy, machine, chosen):
    assert choose_memory(strategy, Cuda(SimulatedCuda(**machine)).facts) == chosen


def test_refuses_memory_that_the_gpu_does_not_have():
    with pytest.raises(SpecError, match="memory: got 'mapped', which Simulated GPU does not"):
        choose_memory("mapped", Cuda(SimulatedCuda(can_map=False)).facts)


@pytest.mark.parametrize(
    ("strategy", "call"),
    [
        ("copy", "cudaHostAlloc"),
        ("copy", "cudaMalloc"),
        ("mapped", "cudaHostGetDevicePointer"),
    ],
)
def test_a_buffer_that_cannot_be_had_leaves_nothing(strategy, call):
    sim = SimulatedCuda()
    cuda = Cuda(sim)
    stream = cuda.create_stream()
    sim.fail(call, 2)
    with pytest.raises(BackendError, match=f"{call}.*: cudaErrorMemoryAllocation"):
        Buffer(cuda, 64, strategy)
    cuda.release("cudaStreamDestroy", stream)
    sim.assert_clean()


def test_too_little_memory_says_how_much_there_is():
    cuda = Cuda(SimulatedCuda(memory=8 * MIB))
    kept = cuda.allocate("cudaMalloc", 2 * MIB)
    with pytest.raises(BackendError) as caught:
        cuda.allocate("cudaMalloc", 12 * MIB)
    assert str(caught.value) == (
        "cudaMalloc of 12.0 MiB on GPU 0: cudaErrorMemoryAllocation, 6 of 8 MiB are free. "
        "Use a smaller batch, or end what else uses the GPU"
    )
    assert cuda.free_memory() == (6 * MIB, 8 * MIB)
    cuda.release("cudaFree", kept)


def test_an_error_names_the_call_and_is_forgotten(sim, cuda):
    sim.fail("cudaStreamCreateWithFlags", 400)
    with pytest.raises(BackendError) as caught:
        cuda.create_stream()
    assert str(caught.value) == (
        "cudaStreamCreateWithFlags on GPU 0: cudaErrorInvalidResourceHandle"
    )
    assert sim.cudaGetLastError() == (0,)
    assert not cuda.is_lost


@pytest.mark.parametrize("status", [700, 719])
def test_a_lost_gpu_has_its_own_error_and_frees_nothing(sim, cuda, status):
    pointer = cuda.allocate("cudaMalloc", 16)
    sim.die(status)
    with pytest.raises(DeviceLostError, match="is lost to this process: start it again") as caught:
        cuda.allocate("cudaMalloc", 16)
    assert caught.value.exit_status == 4
    assert cuda.is_lost
    cuda.release("cudaFree", pointer)
    with pytest.raises(DeviceLostError, match="cudaGetLastError"):
        cuda.take_error()


def test_events_measure_the_work_between_them(sim, cuda):
    stream, events = cuda.create_stream(), [cuda.create_event() for _ in range(2)]
    buffer = Buffer(cuda, 5_000_000, "copy")
    cuda.record(events[0], stream)
    buffer.upload(5_000_000, stream)  # a nanosecond for each byte
    cuda.record(events[1], stream)
    with pytest.raises(BackendError, match="cudaEventElapsedTime on GPU 0: cudaErrorNotReady"):
        cuda.elapsed_ms(*events)
    cuda.wait_for(events[1])
    assert cuda.elapsed_ms(*events) == pytest.approx(5.0)


def test_a_captured_copy_is_done_at_each_launch(sim, cuda):
    stream = cuda.create_stream()
    buffer = Buffer(cuda, 8, "copy")
    cuda.begin_capture(stream)
    buffer.upload(8, stream)
    graph = cuda.end_capture(stream)
    ready = cuda.instantiate(graph)
    cuda.release("cudaGraphDestroy", graph)
    for value in (1, 2):
        buffer.host[:] = value
        cuda.launch(ready, stream)
        cuda.synchronize(stream)
        assert set(sim.find(buffer.device, 8, "device").data) == {value}
    cuda.release("cudaGraphExecDestroy", ready)
    buffer.free()
    cuda.release("cudaStreamDestroy", stream)
    sim.assert_clean()


def test_a_capture_that_fails_leaves_the_stream_usable(sim, cuda):
    stream = cuda.create_stream()
    cuda.begin_capture(stream)
    with pytest.raises(BackendError, match="cudaErrorStreamCaptureUnsupported"):
        cuda.synchronize(stream)
    with pytest.raises(BackendError, match="cudaErrorStreamCaptureInvalidated"):
        cuda.end_capture(stream)
    cuda.synchronize(stream)
    cuda.release("cudaStreamDestroy", stream)
    sim.assert_clean()
