"""One GPU: its memory, streams, events and graphs, by plain numbers as CUDA has them."""

from __future__ import annotations

import enum
from typing import Any

from edge_vit.errors import EdgeVitError, MissingDependencyError
from edge_vit.optional import require
from edge_vit.runtime.cudart.checked import SUCCESS, CheckedCalls
from edge_vit.runtime.cudart.ctypes_calls import load_cudart
from edge_vit.runtime.cudart.device import check_device, read_facts
from edge_vit.runtime.options import Wait

_SCHEDULE = {"spin": 1, "block": 4}  # cudaDeviceScheduleSpin, cudaDeviceScheduleBlockingSync
_EVENT = {"spin": 0, "block": 1}  # cudaEventDefault, cudaEventBlockingSync
_ALREADY_ACTIVE = (
    708  # cudaErrorSetOnActiveProcess, before CUDA 12: events wait as asked all the same
)
_NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the legacy default stream
_PORTABLE, _MAPPED = 1, 2  # cudaHostAllocPortable, cudaHostAllocMapped
_ATTACH_GLOBAL, _ATTACH_SINGLE = 1, 4  # cudaMemAttachGlobal, cudaMemAttachSingle


class _Kind(enum.IntEnum):
    """cudaMemcpyKind."""

    TO_DEVICE = 1
    TO_HOST = 2


class _CaptureMode(enum.IntEnum):
    """cudaStreamCaptureMode."""

    THREAD_LOCAL = 1


def open_cuda(device: int = 0, wait: Wait = "block") -> Cuda:
    """Return the GPU `device`, through `cuda.bindings`, or through libcudart itself without it."""
    try:
        calls: Any = require("cuda.bindings.runtime", "running on a GPU")
    except (MissingDependencyError, ImportError):
        calls = load_cudart()
        if calls is None:
            raise
    return Cuda(calls, device, wait)


class Cuda:
    """One GPU of this process. Pointers, streams, events and graphs are plain numbers.

    Attributes:
        facts: of the GPU.

    Raises:
        BackendError: there is no driver, it does not fit, or it sees no GPU.
        SpecError: there are GPUs, but not of that number.
    """

    def __init__(self, calls: Any, device: int = 0, wait: Wait = "block") -> None:
        self._checked = CheckedCalls(calls, device)
        self.wait = wait
        check_device(self._checked)
        self.bind_thread()
        status = self._checked.status("cudaSetDeviceFlags", _SCHEDULE[wait])[0]
        if int(status) not in (SUCCESS, _ALREADY_ACTIVE):
            raise self._checked.failure("cudaSetDeviceFlags", status)
        self._checked.take_error()
        self.facts = read_facts(self._checked)

    @property
    def is_lost(self) -> bool:
        """Whether an error left nothing to be done but to end the process."""
        return self._checked.is_lost

    def bind_thread(self) -> None:
        """Make this GPU the calling thread's: to be called before all work of a thread.

        Each time, as whatever else uses CUDA on the thread may have chosen another GPU since.
        """
        self._checked.call("cudaSetDevice", self._checked.device)

    def free_memory(self) -> tuple[int, int]:
        """Return (free, total) bytes of the GPU's memory."""
        free, total = self._checked.call("cudaMemGetInfo")
        return int(free), int(total)

    def take_error(self) -> str:
        """Return the name of this thread's last error and forget it; empty where there is none."""
        return self._checked.take_error()

    # Memory

    def malloc(self, num_bytes: int) -> int:
        """Return memory of the GPU."""
        return self._checked.allocate("cudaMalloc", num_bytes)

    def malloc_managed(self, num_bytes: int, stream: int) -> int:
        """Return memory that GPU and CPU use by one pointer, the CPU while `stream` is idle.

        Where the GPU does not share such memory at all times it is given to `stream` alone: else
        the CPU might not touch it while any other stream works.
        """
        pointer = self._checked.allocate("cudaMallocManaged", num_bytes, _ATTACH_GLOBAL)
        if not self.facts.has_concurrent_managed:
            try:
                self._checked.call("cudaStreamAttachMemAsync", stream, pointer, 0, _ATTACH_SINGLE)
                self.synchronize(stream)
            except EdgeVitError:
                self.free(pointer)
                raise
        return pointer

    def free(self, pointer: int) -> None:
        """Free what `malloc` or `malloc_managed` returned."""
        self._checked.release("cudaFree", pointer)

    def host_alloc(self, num_bytes: int, *, mapped: bool = False) -> int:
        """Return pinned host memory; where `mapped`, the GPU sees it at `device_pointer`."""
        flags = _PORTABLE | (_MAPPED if mapped else 0)
        return self._checked.allocate("cudaHostAlloc", num_bytes, flags)

    def host_free(self, pointer: int) -> None:
        """Free what `host_alloc` returned."""
        self._checked.release("cudaFreeHost", pointer)

    def device_pointer(self, host: int) -> int:
        """Return where the GPU sees mapped host memory."""
        return int(self._checked.call("cudaHostGetDevicePointer", host, 0)[0])

    def copy_to_device(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        """Enqueue a copy of host memory to the GPU."""
        self._checked.call("cudaMemcpyAsync", target, source, num_bytes, _Kind.TO_DEVICE, stream)

    def copy_to_host(self, target: int, source: int, num_bytes: int, stream: int) -> None:
        """Enqueue a copy of the GPU's memory to the host."""
        self._checked.call("cudaMemcpyAsync", target, source, num_bytes, _Kind.TO_HOST, stream)

    # Streams and events

    def create_stream(self) -> int:
        """Return a stream, whose work is done in order."""
        return int(self._checked.call("cudaStreamCreateWithFlags", _NON_BLOCKING)[0])

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""
        self._checked.release("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work in `stream` is done."""
        self._checked.call("cudaStreamSynchronize", stream)

    def create_event(self) -> int:
        """Return an event, which keeps the time at which a stream came to it."""
        return int(self._checked.call("cudaEventCreateWithFlags", _EVENT[self.wait])[0])

    def destroy_event(self, event: int) -> None:
        """Free an event."""
        self._checked.release("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """Put `event` behind the work that is in `stream` now."""
        self._checked.call("cudaEventRecord", event, stream)

    def wait_for(self, event: int) -> None:
        """Wait until its stream came to `event`."""
        self._checked.call("cudaEventSynchronize", event)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the milliseconds between two events that their stream came to."""
        return float(self._checked.call("cudaEventElapsedTime", start, end)[0])

    # Graphs

    def begin_capture(self, stream: int) -> None:
        """Let `stream` collect work instead of doing it; other threads are not disturbed."""
        self._checked.call("cudaStreamBeginCapture", stream, _CaptureMode.THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return the graph of what was collected; `stream` does its work again in any case."""
        return int(self._checked.call("cudaStreamEndCapture", stream)[0])

    def instantiate(self, graph: int) -> int:
        """Return `graph` ready to launch."""
        return int(self._checked.call("cudaGraphInstantiate", graph, 0)[0])

    def launch(self, graph_exec: int, stream: int) -> None:
        """Enqueue all of a graph."""
        self._checked.call("cudaGraphLaunch", graph_exec, stream)

    def destroy_graph(self, graph: int) -> None:
        """Free a graph; what was made ready of it stays."""
        self._checked.release("cudaGraphDestroy", graph)

    def destroy_graph_exec(self, graph_exec: int) -> None:
        """Free what `instantiate` returned."""
        self._checked.release("cudaGraphExecDestroy", graph_exec)
