"""Memory of one tensor as the CPU and as the GPU see it."""

from __future__ import annotations

import contextlib
import ctypes

import numpy as np
import numpy.typing as npt

from edge_vit.errors import SpecError
from edge_vit.runtime.cudart.device import GpuFacts
from edge_vit.runtime.cudart.gpu import Cuda
from edge_vit.runtime.options import Memory


def choose_memory(memory: Memory, facts: GpuFacts) -> Memory:
    """Return `memory`, or for ``auto`` the one that suits the GPU.

    A discrete GPU gets copies. An integrated one has the same memory as the CPU, where a copy would
    only move it to another place.
    """
    if memory == "auto":
        return "mapped" if facts.is_integrated and facts.can_map else "copy"
    has_it = {"mapped": facts.can_map, "managed": facts.has_managed}
    if not has_it.get(memory, True):
        raise SpecError(f"memory: got {memory!r}, which {facts.name} does not have. Take 'copy'")
    return memory


class Buffer:
    """Memory of one tensor; not to be touched on the CPU while its stream works with it.

    Args:
        cuda: the GPU.
        num_bytes: how much, at least 1.
        memory: any but ``auto``.
        stream: that will use it.

    Attributes:
        host: uint8 (num_bytes,): what the CPU reads and writes; gone once the buffer is freed.
        device: where the GPU sees it.
    """

    def __init__(self, cuda: Cuda, num_bytes: int, memory: Memory, stream: int) -> None:
        self._cuda = cuda
        self._is_copied = memory == "copy"
        with contextlib.ExitStack() as stack:
            if memory == "managed":
                host = self.device = cuda.malloc_managed(num_bytes, stream)
                stack.callback(cuda.free, host)
            else:
                host = cuda.host_alloc(num_bytes, mapped=memory == "mapped")
                stack.callback(cuda.host_free, host)
            if memory == "mapped":
                self.device = cuda.device_pointer(host)
            elif memory == "copy":
                self.device = cuda.malloc(num_bytes)
                stack.callback(cuda.free, self.device)
            self._pointer = host
            self.host = _view(host, num_bytes)
            self._stack = stack.pop_all()

    def upload(self, num_bytes: int, stream: int) -> None:
        """Enqueue what brings the first `num_bytes` to the GPU."""
        if self._is_copied:
            self._cuda.copy_to_device(self.device, self._pointer, num_bytes, stream)

    def download(self, num_bytes: int, stream: int) -> None:
        """Enqueue what brings the first `num_bytes` to the CPU."""
        if self._is_copied:
            self._cuda.copy_to_host(self._pointer, self.device, num_bytes, stream)

    def free(self) -> None:
        """Free the memory; its stream must be idle."""
        self.host = np.empty(0, np.uint8)
        self._stack.close()


def _view(pointer: int, num_bytes: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(pointer))
