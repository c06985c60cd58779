"""A CUDA that does its work as late as it may, and refuses everything that real CUDA only might.

It has the functions of libcudart that sessions call. Work that is enqueued runs when
somebody waits for it and not before, so whoever forgets to wait reads garbage. Addresses are never
given twice. A `Violation` says what was done wrong: a stale or foreign address, memory freed twice
or while it is in use, two streams at the same memory, an input changed before its copy ran, a wait
in the middle of a capture, a handle after its end.
"""

from __future__ import annotations

import itertools
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from simulated_cuda_memory import SimulatedMemory
from simulated_cuda_parts import (
    NAMES,
    PENDING,
    Block,
    Op,
    StickyError,
    Stream,
    Violation,
    conflict,
    shared,
)
from simulated_cuda_streams import SimulatedStreams

from edge_vit.runtime.cudart.calls import SIGNATURES


class SimulatedCuda(SimulatedMemory, SimulatedStreams):
    """See the module. All statuses are numbers."""

    def __init__(
        self,
        *,
        integrated: bool = False,
        can_map: bool = True,
        memory: int = 1 << 28,
        devices: int = 1,
        driver: int = 13000,
        runtime: int = 13000,
    ) -> None:
        self.attributes = {18: integrated, 19: can_map, 75: 8, 76: 7}
        self.memory, self.devices = memory, devices
        self.driver, self.runtime = driver, runtime
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.device_flags: int | None = None
        self.clock = 0  # nanoseconds
        self.blocks: list[Block] = []
        self._freed: list[Block] = []  # kept, so that a stale view reads FREED and not the heap
        self.handles: dict[int, Any] = {}
        self._numbers = itertools.count(0x1000)
        self._addresses = itertools.count(0x7F00_0000_0000, 1 << 24)
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._failures: dict[str, list[tuple[int, int]]] = {}
        self._last_error = 0
        self._dead = 0

    # What tests ask of it

    def fail(self, name: str, status: int, nth: int = 1) -> None:
        """Let the `nth` call of the function `name` from now on fail."""
        self._failures.setdefault(name, []).append((self.counts[name] + nth, status))

    def die(self, status: int) -> None:
        """Let every call fail from now on."""
        self._dead = status

    def broken(self, text: str) -> Violation:
        """Note a violation, so that nobody can swallow it, and return it."""
        self.violations.append(text)
        return Violation(text)

    def assert_clean(self) -> None:
        """Everything was freed, and nothing was done wrong."""
        assert not self.violations
        assert not self.blocks, f"leaked {[block.kind for block in self.blocks]}"
        assert not self.handles, f"leaked {list(self.handles.values())}"

    @property
    def used(self) -> int:
        """Bytes of the GPU's memory that are taken."""
        return sum(len(block.data) for block in self.blocks if block.kind == "device")

    def __getattribute__(self, name: str) -> Any:
        """Give every CUDA function its lock, its count, and the failure that a test asked for."""
        value = super().__getattribute__(name)
        if not name.startswith("cuda"):
            return value

        nothing = [None for letter in SIGNATURES.get(name, "P") if letter.isupper()]

        def call(*arguments: Any) -> tuple[Any, ...]:
            with self._lock:
                self.counts[name] += 1
                status = self._planned_failure(name)
                if status:
                    if name == "cudaStreamEndCapture":  # ends it even where it fails
                        self.get(arguments[0], Stream).is_invalid = True
                        value(*arguments)
                    if name != "cudaGetLastError":
                        self._last_error = status
                    return (status, *nothing)
                try:
                    result: tuple[Any, ...] = value(*arguments)
                except StickyError as error:
                    self._dead = error.status
                    for stream in self._streams():
                        stream.queue.clear()
                    return (error.status, *nothing)
                if result[0] and name != "cudaGetLastError":
                    self._last_error = result[0]
                return result

        return call

    def _planned_failure(self, name: str) -> int:
        if self._dead:
            return self._dead
        for number, status in self._failures.get(name, ()):
            if number == self.counts[name]:
                return status
        return 0

    # Device

    def error_name(self, status: int) -> str:
        return NAMES.get(status, "cudaSuccess")

    def device_name(self, device: int) -> str:
        return "Simulated GPU"

    def cudaGetLastError(self) -> tuple[int]:
        status, self._last_error = self._last_error, 0
        return (status,)

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return 0, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:
        return 0, self.runtime

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        if self.driver < self.runtime // 1000 * 1000:
            return 35, 0
        return (0, self.devices) if self.devices else (100, 0)

    def cudaSetDevice(self, device: int) -> tuple[int]:
        self._thread.device = device
        return (0,)

    def cudaSetDeviceFlags(self, flags: int) -> tuple[int]:
        self.device_flags = flags
        return (0,)

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, int(self.attributes[attribute])

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.memory - self.used, self.memory

    # The machinery

    def submit(self, stream: int, build: Callable[[int], None]) -> None:
        """Let `build` enqueue its work in `stream`, now or whenever the graph is launched."""
        found = self.get(stream, Stream)
        if found.device != getattr(self._thread, "device", 0):
            raise self.broken("used a stream of another GPU than the thread's")
        if found.captured is not None:
            found.captured.append(build)
        else:
            build(stream)

    def enqueue(self, stream: int, op: Op) -> None:
        """Put `op` into `stream`."""
        own = self.get(stream, Stream)
        for memory in (*op.reads, *op.writes):
            block = memory.block
            if block.is_free:
                raise self.broken(f"{op.name}: used {block.kind} memory after it was freed")
        for other in self._streams():
            if other is not own and any(conflict(op, pending) for pending in other.queue):
                raise self.broken(f"{op.name}: two streams use the same memory at the same time")
        op.digests = [zlib.crc32(memory.data) for memory in shared(op.reads)]
        for memory in shared(op.writes):
            if not any(pending.touches(memory) for pending in self._pending()):
                memory.data[:] = PENDING
        own.queue.append(op)

    def get(self, handle: int, kind: type) -> Any:
        """Return what `handle` stands for."""
        found = self.handles.get(int(handle))
        if not isinstance(found, kind):
            raise self.broken(f"{handle} is no {kind.__name__}, or one no more")
        return found

    def is_pending(self, owner: object, apart_from: int = 0) -> bool:
        """Say whether work of `owner` waits in any stream but `apart_from`."""
        own = self.handles.get(apart_from)
        return any(op.owner is owner for s in self._streams() if s is not own for op in s.queue)

    def _work(self, stream: Stream, last: Op | None) -> None:
        while stream.queue:
            op = stream.queue[0]
            if [zlib.crc32(memory.data) for memory in shared(op.reads)] != op.digests:
                raise self.broken(f"{op.name}: its input was changed before it ran")
            op.run()
            self.clock += op.nanoseconds
            stream.queue.pop(0)
            if op is last:
                break

    def _streams(self) -> list[Stream]:
        return [found for found in self.handles.values() if isinstance(found, Stream)]

    def _pending(self) -> list[Op]:
        return [op for stream in self._streams() for op in stream.queue]

    def _is_capturing(self) -> bool:
        stream = getattr(self._thread, "capturing", None)
        if stream is not None:
            stream.is_invalid = True
        return stream is not None

    def _handle(self, thing: Any) -> int:
        number = next(self._numbers)
        self.handles[number] = thing
        return number

    def _drop(self, handle: int, kind: str) -> tuple[int]:
        if self.get(handle, tuple)[0] != kind:
            raise self.broken(f"freed a graph as {kind} that is none")
        del self.handles[handle]
        return (0,)
