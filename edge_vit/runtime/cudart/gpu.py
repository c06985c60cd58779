"""One GPU: its facts, memory, streams, events and graphs, by plain numbers as CUDA has them."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vit.errors import (
    BackendError,
    DeviceLostError,
    EdgeVitError,
    MissingDependencyError,
    SpecError,
)
from edge_vit.runtime.cudart.calls import (
    MIXED_DRIVER,
    NO_DEVICE,
    NO_DRIVER,
    OUT_OF_MEMORY,
    STICKY,
    SUCCESS,
    GpuMemoryError,
    load_cudart,
    version_of,
)
from edge_vit.runtime.options import Memory, Wait

ON_THE_CPU = "To run on the CPU: --backend ort"
"""How messages end that are about a missing driver or GPU."""

_INTEGRATED, _CAN_MAP, _MAJOR, _MINOR = 18, 19, 75, 76
"""Of cudaDeviceAttr."""

_SCHEDULE = {"spin": 1, "block": 4}  # cudaDeviceScheduleSpin, cudaDeviceScheduleBlockingSync
_EVENT = {"spin": 0, "block": 1}  # cudaEventDefault, cudaEventBlockingSync
_ALREADY_ACTIVE = 708  # cudaErrorSetOnActiveProcess, before CUDA 12: events wait as asked
_NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the legacy default stream
_PORTABLE, _MAPPED = 1, 2  # cudaHostAllocPortable, cudaHostAllocMapped
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_THREAD_LOCAL = 1  # cudaStreamCaptureMode


@dataclass(frozen=True)
class GpuFacts:
    """Facts of a GPU that sessions depend on; versions are (major, minor)."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    is_integrated: bool  # whether it shares one memory with the CPU, as on a Jetson
    can_map: bool  # whether it reads and writes pinned host memory
    driver: tuple[int, int]  # the newest CUDA that it knows
    runtime: tuple[int, int]


def open_cuda(device: int = 0, wait: Wait = "block") -> Cuda:
    """Return the GPU `device`; the error says what is missing: library, driver, GPU or number."""
    calls = load_cudart()
    if calls is None:
        raise MissingDependencyError(
            "running on a GPU needs CUDA's runtime library, which is not installed. A Jetson has "
            "it from JetPack; on a desktop GPU run: pip install 'edge-vit[cuda13]' (for drivers "
            "of CUDA 12: 'edge-vit[cuda12]')"
        )
    return Cuda(calls, device, wait)


class Cuda:
    """One GPU of this process, through the `calls` of a `CudartLibrary`.

    Pointers, streams, events and graphs are plain numbers. A call that fails is an error of one
    line that names CUDA's function; `is_lost` is set by one after which nothing can be done but to
    end the process.
    """

    def __init__(self, calls: Any, device: int = 0, wait: Wait = "block") -> None:
        self._calls, self.device, self.wait = calls, device, wait
        self.is_lost = False
        self._check_device()
        self.bind_thread()
        (status,) = calls.cudaSetDeviceFlags(_SCHEDULE[wait])
        if status not in (SUCCESS, _ALREADY_ACTIVE):
            raise self.failure("cudaSetDeviceFlags", status)
        self.take_error()
        self.facts = GpuFacts(
            index=device,
            name=calls.device_name(device),
            compute_capability=(self._attribute(_MAJOR), self._attribute(_MINOR)),
            is_integrated=bool(self._attribute(_INTEGRATED)),
            can_map=bool(self._attribute(_CAN_MAP)),
            driver=version_of(calls, "cudaDriverGetVersion"),
            runtime=version_of(calls, "cudaRuntimeGetVersion"),
        )

    def bind_thread(self) -> None:
        """Make this GPU the calling thread's: to be called before all work of a thread.

        Each time, as whatever else uses CUDA on the thread may have chosen another GPU since.
        """
        self.call("cudaSetDevice", self.device)

    def free_memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of the GPU's memory."""
        free, total = self.call("cudaMemGetInfo")
        return free, total

    def create_stream(self) -> int:
        """Return a stream, whose work is done in order."""
        return int(self.call("cudaStreamCreateWithFlags", _NON_BLOCKING)[0])

    def synchronize(self, stream: int) -> None:
        """Wait until all work in `stream` is done."""
        self.call("cudaStreamSynchronize", stream)

    def create_event(self) -> int:
        """Return an event, which keeps the time at which a stream came to it."""
        return int(self.call("cudaEventCreateWithFlags", _EVENT[self.wait])[0])

    def record(self, event: int, stream: int) -> None:
        """Put `event` behind the work that is in `stream` now."""
        self.call("cudaEventRecord", event, stream)

    def wait_for(self, event: int) -> None:
        """Wait until its stream came to `event`."""
        self.call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that their stream came to."""
        return float(self.call("cudaEventElapsedTime", start, end)[0])

    def begin_capture(self, stream: int) -> None:
        """Let `stream` collect work instead of doing it; other threads are not disturbed."""
        self.call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return the graph of the collected work; `stream` does its work again in any case."""
        return int(self.call("cudaStreamEndCapture", stream)[0])

    def instantiate(self, graph: int) -> int:
        """Return `graph` ready to launch."""
        return int(self.call("cudaGraphInstantiate", graph, 0)[0])

    def launch(self, graph_exec: int, stream: int) -> None:
        """Enqueue all of a graph."""
        self.call("cudaGraphLaunch", graph_exec, stream)

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Return the results of the function `name`, or raise its `failure`."""
        status, *results = getattr(self._calls, name)(*arguments)
        if status != SUCCESS:
            raise self.failure(name, status)
        return tuple(results)

    def allocate(self, name: str, num_bytes: int, *arguments: Any) -> int:
        """Return the pointer of `num_bytes` that the function `name` allocates."""
        status, pointer = getattr(self._calls, name)(num_bytes, *arguments)
        if status == OUT_OF_MEMORY:
            self._calls.cudaGetLastError()
            reason = self._calls.error_name(status)
            failed, free, total = self._calls.cudaMemGetInfo()
            if failed == SUCCESS:
                reason += f", {free / 2**20:.0f} of {total / 2**20:.0f} MiB are free"
            raise GpuMemoryError(
                f"{name} of {num_bytes / 2**20:.1f} MiB on GPU {self.device}: {reason}. "
                "Use a smaller batch, or end what else uses the GPU"
            )
        if status != SUCCESS:
            raise self.failure(name, status)
        return int(pointer)

    def release(self, name: str, handle: int) -> None:
        """Free `handle` by the function `name`; a lost GPU has freed all."""
        if not self.is_lost:
            self.call(name, handle)

    def take_error(self) -> None:
        """Forget this thread's last error; raise where the GPU is lost."""
        status = self._calls.cudaGetLastError()[0]
        if status in STICKY:
            raise self.failure("cudaGetLastError", status)

    def failure(self, name: str, status: int) -> EdgeVitError:
        """Return the error of a function `name` that ended with `status`, which is forgotten."""
        error = f"{name} on GPU {self.device}: {self._calls.error_name(status)}"
        if status in STICKY:
            self.is_lost = True
            return DeviceLostError(
                f"{error}. The GPU is lost to this process: start it again, and look at: "
                "sudo dmesg | grep -i -e nvrm -e xid"
            )
        self._calls.cudaGetLastError()
        return BackendError(error)

    def _attribute(self, attribute: int) -> int:
        return int(self.call("cudaDeviceGetAttribute", attribute, self.device)[0])

    def _check_device(self) -> None:
        status, count = self._calls.cudaGetDeviceCount()
        error = f"(cudaGetDeviceCount: {self._calls.error_name(status)})"
        if status in NO_DRIVER:
            raise BackendError(self._driver_text(error))
        if status in MIXED_DRIVER:
            raise BackendError(
                "the NVIDIA driver in the kernel and its library are of different versions "
                f"{error}. Restart this machine"
            )
        if status == NO_DEVICE or (status == SUCCESS and not count):
            raise BackendError(
                "the NVIDIA driver sees no GPU. Does nvidia-smi list it, or is it hidden by "
                f"CUDA_VISIBLE_DEVICES? {ON_THE_CPU}"
            )
        if status != SUCCESS:
            raise self.failure("cudaGetDeviceCount", status)
        if not 0 <= self.device < count:
            raise SpecError(f"device: got {self.device}, expected 0 to {count - 1}")

    def _driver_text(self, error: str) -> str:
        driver = version_of(self._calls, "cudaDriverGetVersion")
        if driver == (0, 0):
            return f"this machine has no NVIDIA driver {error}. {ON_THE_CPU}"
        runtime = version_of(self._calls, "cudaRuntimeGetVersion")
        return (
            "the NVIDIA driver knows CUDA {}.{}, the CUDA runtime is {}.{} {}. Update the driver, "
            "or take the runtime that fits it: pip install 'edge-vit[cuda{}]'"
        ).format(*driver, *runtime, error, driver[0])


def choose_memory(memory: Memory, facts: GpuFacts) -> Memory:
    """Return `memory`, or for ``auto`` the one that suits the GPU.

    A discrete GPU gets copies. An integrated one has the same memory as the CPU, where a copy would
    only move it to another place.
    """
    if memory == "auto":
        return "mapped" if facts.is_integrated and facts.can_map else "copy"
    if memory == "mapped" and not facts.can_map:
        raise SpecError(f"memory: got {memory!r}, which {facts.name} does not have. Take 'copy'")
    return memory


class Buffer:
    """Memory of one tensor, `host` to the CPU, which must not touch it while a stream uses it.

    `host` is uint8 (num_bytes,), and empty once the buffer is freed; `device` the GPU's address.
    """

    def __init__(self, cuda: Cuda, num_bytes: int, memory: Memory) -> None:
        self._cuda = cuda
        self._is_copied = memory == "copy"
        with contextlib.ExitStack() as stack:
            flags = _PORTABLE if self._is_copied else _PORTABLE | _MAPPED
            host = cuda.allocate("cudaHostAlloc", num_bytes, flags)
            stack.callback(cuda.release, "cudaFreeHost", host)
            if self._is_copied:
                self.device = cuda.allocate("cudaMalloc", num_bytes)
                stack.callback(cuda.release, "cudaFree", self.device)
            else:
                (self.device,) = cuda.call("cudaHostGetDevicePointer", host, 0)
            self._pointer = host
            self.host: npt.NDArray[np.uint8] = np.ctypeslib.as_array(
                (ctypes.c_uint8 * num_bytes).from_address(host)
            )
            self._stack = stack.pop_all()

    def upload(self, num_bytes: int, stream: int) -> None:
        """Enqueue the copy of the first `num_bytes` to the GPU, where one is needed."""
        if self._is_copied:
            places = self.device, self._pointer
            self._cuda.call("cudaMemcpyAsync", *places, num_bytes, _TO_DEVICE, stream)

    def download(self, num_bytes: int, stream: int) -> None:
        """Enqueue the copy of the first `num_bytes` to the CPU, where one is needed."""
        if self._is_copied:
            places = self._pointer, self.device
            self._cuda.call("cudaMemcpyAsync", *places, num_bytes, _TO_HOST, stream)

    def free(self) -> None:
        """Free the memory; its stream must be idle."""
        self.host = np.empty(0, np.uint8)
        self._stack.close()
