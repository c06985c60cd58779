"""What a simulated CUDA is made of: memory, work, streams and events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

NAMES = {
    0: "cudaSuccess",
    2: "cudaErrorMemoryAllocation",
    35: "cudaErrorInsufficientDriver",
    100: "cudaErrorNoDevice",
    400: "cudaErrorInvalidResourceHandle",
    600: "cudaErrorNotReady",
    700: "cudaErrorIllegalAddress",
    708: "cudaErrorSetOnActiveProcess",
    719: "cudaErrorLaunchFailure",
    803: "cudaErrorSystemDriverMismatch",
    900: "cudaErrorStreamCaptureUnsupported",
    901: "cudaErrorStreamCaptureInvalidated",
}
FRESH, FREED, PENDING = 0xCD, 0xDD, 0xEE
"""What memory holds before anything was written to it, after it was freed, before a result is."""


class Violation(AssertionError):
    """Something that real CUDA might not notice, and that is wrong."""


class StickyError(Exception):
    """Work that kills the context when it runs."""

    def __init__(self, status: int) -> None:
        super().__init__(NAMES[status])
        self.status = status


@dataclass(eq=False)
class Block:
    """Memory: where the CPU and where the GPU see it, and what is in it."""

    kind: str  # device, host or mapped
    data: np.ndarray
    host: int = 0
    device: int = 0
    is_free: bool = False


@dataclass(frozen=True, eq=False)
class Range:
    """Part of a block."""

    block: Block
    start: int
    size: int

    @property
    def data(self) -> np.ndarray:
        return self.block.data[self.start : self.start + self.size]

    def overlaps(self, other: Range) -> bool:
        return (
            self.block is other.block
            and self.start < other.start + other.size
            and other.start < self.start + self.size
        )


@dataclass(eq=False)
class Op:
    """Work in a stream."""

    name: str
    run: Callable[[], None]
    reads: list[Range] = field(default_factory=list)
    writes: list[Range] = field(default_factory=list)
    nanoseconds: int = 0
    owner: object = None
    digests: list[int] = field(default_factory=list)

    def touches(self, memory: Range) -> bool:
        return any(memory.overlaps(own) for own in (*self.reads, *self.writes))


@dataclass(eq=False)
class Stream:
    """A queue of work, or of what is being captured."""

    device: int
    queue: list[Op] = field(default_factory=list)
    captured: list[Callable[[int], None]] | None = None
    is_invalid: bool = False


@dataclass(eq=False)
class Event:
    """A point in a stream and the time when it was passed."""

    flags: int
    marker: Op | None = None
    stream: Stream | None = None
    time: int | None = None


def shared(ranges: list[Range]) -> list[Range]:
    """Those that the CPU could change or read."""
    return [memory for memory in ranges if memory.block.host]


def conflict(op: Op, other: Op) -> bool:
    """Say whether one writes what the other uses."""
    pairs = [(a, b) for a in op.writes for b in (*other.reads, *other.writes)]
    pairs += [(a, b) for a in op.reads for b in other.writes]
    return any(a.overlaps(b) for a, b in pairs)
