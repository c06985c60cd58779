"""The functions of a simulated CUDA that have to do with memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from simulated_cuda_parts import FREED, FRESH, Block, Op, Range


class SimulatedMemory:
    """Part of `SimulatedCuda`, which has the blocks, the streams and the violations."""

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate("device", size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate("mapped" if flags & 2 else "host", size)

    def cudaFree(self, pointer: int) -> tuple[int]:
        return self._free(pointer, "device")

    def cudaFreeHost(self, pointer: int) -> tuple[int]:
        return self._free(pointer, "host", "mapped")

    def cudaHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[int, int]:
        block = self.find(pointer, 1, "host").block
        if block.kind != "mapped":
            raise self.broken("asked where the GPU sees memory that is not mapped")
        return 0, block.device

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int):
        sides = {1: ("device", "host"), 2: ("host", "device")}[kind]
        to, of = self.find(target, size, sides[0]), self.find(source, size, sides[1])
        if "mapped" in (to.block.kind, of.block.kind):
            raise self.broken("copied memory that both sides share")

        def build(queue: int) -> None:
            self.enqueue(
                queue, Op("copy", lambda: to.data.__setitem__(..., of.data), [of], [to], size)
            )

        self.submit(stream, build)
        return (0,)

    def find(self, pointer: int, size: int, side: str) -> Range:
        """Return the memory at `pointer` as `side`, host or device, sees it."""
        pointer = int(pointer)
        for block in (*self.blocks, *self._freed[-64:]):
            base = block.host if side == "host" else block.device
            if base and base <= pointer < base + len(block.data):
                if block.is_free:
                    raise self.broken(f"used {block.kind} memory after it was freed")
                if pointer + size > base + len(block.data):
                    raise self.broken(f"{size} bytes do not fit into {block.kind} memory")
                return Range(block, pointer - base, size)
        raise self.broken(f"{pointer:#x} is no {side} memory")

    def _allocate(self, kind: str, size: int) -> tuple[int, int]:
        if self._is_capturing():
            return 900, 0
        if size < 1:
            raise self.broken("allocated nothing")
        if kind == "device" and self.used + size > self.memory:
            return 2, 0
        block = Block(kind, np.full(size, FRESH, np.uint8))
        if kind != "device":
            block.host = block.data.ctypes.data
        if kind != "host":
            block.device = next(self._addresses)
        self.blocks.append(block)
        return 0, block.device if kind == "device" else block.host

    def _free(self, pointer: int, *kinds: str) -> tuple[int]:
        for block in self.blocks:
            if pointer == (block.device if block.kind == "device" else block.host):
                if block.kind not in kinds:
                    raise self.broken(f"freed {block.kind} memory by the wrong function")
                whole = Range(block, 0, len(block.data))
                if any(op.touches(whole) for op in self._pending()):
                    raise self.broken(f"freed {block.kind} memory that is in use")
                block.is_free = True
                block.data[:] = FREED
                self.blocks.remove(block)
                self._freed.append(block)
                return (0,)
        raise self.broken("freed memory twice, or memory that is none")
